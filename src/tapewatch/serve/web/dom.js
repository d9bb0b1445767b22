// The few ways in which this page touches its document. Text only ever goes in as text.

export const byId = (id) => document.getElementById(id);

/** A new element: make("td", "num", "12.3") or make("td", "num", child, child). */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Change the text only if it differs: an unchanged node costs no layout. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setData(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

/** Buttons of which one is pressed. Returns a function that presses one without calling ``chosen``. */
export function segments(box, names, chosen) {
  const buttons = new Map();
  const press = (value) => {
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === value));
  };
  for (const [value, label, title] of names) {
    const button = make("button", "", label);
    button.type = "button";
    if (title) button.title = title;
    button.addEventListener("click", () => {
      press(value);
      chosen(value);
    });
    buttons.set(value, button);
    box.append(button);
  }
  return press;
}

/** Run ``work`` once in the next frame, however often this is called before it. */
export function batched(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}
