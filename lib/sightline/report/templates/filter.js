(function () {
  const controls = document.getElementById("filters");
  const cards = Array.from(document.querySelectorAll("article[data-facets]"));
  const facets = cards.map((card) => JSON.parse(card.dataset.facets));
  const told = document.getElementById("shown");
  function apply() {
    const wanted = Array.from(controls.querySelectorAll("select")).filter((choice) => choice.value !== "");
    let count = 0;
    cards.forEach((card, index) => {
      const fits = wanted.every((choice) => facets[index][choice.name] === choice.value.slice(1));
      card.hidden = !fits;
      if (fits) count += 1;
    });
    document.querySelectorAll("section.run").forEach((section) => {
      section.hidden = !section.querySelector("article:not([hidden])") && wanted.length > 0;
    });
    told.textContent = count + " of " + cards.length + " samples shown";
  }
  controls.hidden = false;
  controls.addEventListener("change", apply);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(apply, 0));
  apply();
})();
