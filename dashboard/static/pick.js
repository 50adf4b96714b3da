// A table whose rows are chosen by a button each: told as the number that the button carries.

/** Show the table that `data` is, our own HTML, and tell of each choice. */
export function pick({ data, parentElement, setTriggerValue }) {
  let place = parentElement.querySelector(":scope > .bs-picks");
  if (!place) {
    place = document.createElement("div");
    place.className = "bs-picks";
    parentElement.appendChild(place);
  }
  if (place.shown !== data.table) place.innerHTML = place.shown = data.table;
  place.onclick = (event) => {
    const button = event.target.closest("[data-pick]");
    if (button) setTriggerValue("pick", Number(button.dataset.pick));
  };
}
