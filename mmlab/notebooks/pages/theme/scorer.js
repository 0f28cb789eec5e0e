// Ranks what the search finds. By itself Sphinx takes the best score of a single word, so that nearly
// all pages are tied and stand in the order of their names. Here the words of the query are counted
// in that heading of a page which holds most of them; those of its title count more.
const stems = (text) => splitQuery(text.toLowerCase()).map((word) => new Stemmer().stemWord(word));

const worth = (heading, asked, each) => {
  const words = stems(heading);
  const held = new Set(words.filter((word) => asked.has(word))).size;
  const first = words.findIndex((word) => asked.has(word));
  return held && each * held + 1 / (1 + first); // of two equal ones that which begins with it
};

let best; // number of a page -> the worth of its best heading

const rank = () => {
  const { alltitles, titles } = Search._index;
  const asked = new Set(stems(new URLSearchParams(location.search).get("q") ?? ""));
  best = titles.map((title) => worth(title, asked, 20));
  for (const [heading, places] of Object.entries(alltitles))
    for (const [page] of places) best[page] = Math.max(best[page], worth(heading, asked, 15));
};

var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([page, , , , score, , kind]) => {
    if (!best) rank();
    return kind === "object" ? score : score + best[Search._index.docnames.indexOf(page)];
  },
};
