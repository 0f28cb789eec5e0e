"""Tab completion in a shell: ``eval "$(mmlab completion bash)"``, or zsh.

Standard library alone: the launcher calls this before anything is set up.
"""

from collections.abc import Iterable

from mmlab.originals import notebooks

SHELLS = ("bash", "zsh")
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
"""With these zsh understands what bash does."""
FUNCTION = """\
_mmlab() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" offered=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    offered="{commands}"
  elif [ "${{COMP_WORDS[1]}}" = run ]; then
    offered="{numbers}"
  elif [ "${{COMP_WORDS[1]}}" = completion ]; then
    offered="{shells}"
  fi
  COMPREPLY=($(compgen -W "$offered" -- "$word"))
}}
complete -o default -F _mmlab mmlab
"""
"""Where nothing is offered, the shell completes names of files."""


def completion(shell: str, commands: Iterable[str]) -> str:
    """What a shell has to evaluate.

    Args:
        shell: of SHELLS.
        commands: those that the launcher takes.
    """
    numbers = (path.name[:2] for path in notebooks())
    offered = {"commands": commands, "numbers": numbers, "shells": SHELLS}
    function = FUNCTION.format(**{name: " ".join(words) for name, words in offered.items()})
    return (ZSH if shell == "zsh" else "") + function
