"use strict";
// Replies are the text of models: it becomes text of the page, and never markup.
const replies = JSON.parse(document.getElementById("reply-data").textContent);
if (replies.views.length) browseReplies();

function browseReplies() {
  const get = (name) => document.getElementById(`reply-${name}`);
  const SHOWN = 6;  // arms that are ticked to begin with
  let cells, ticked;

  const view = () => replies.views[get("view").value];
  const prompt = () => Number(get("prompt").value);

  function element(tag, text = "", className = "", outcome = -1) {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    if (outcome >= 0) made.style.setProperty("--outcome", replies.colours[outcome]);
    return made;
  }

  function fill(select, names, values = names.map((_, i) => i)) {
    const before = select.value;
    select.replaceChildren(...names.map((name, i) => {
      const option = element("option", name);
      option.value = values[i];
      return option;
    }));
    if (values.some((value) => String(value) === before)) select.value = before;
  }

  function cell(arm) {
    const step = view().steps.length > 1 ? get("step").value : 0;
    return cells.get([arm, get("seed").value, step, get("split").value].join());
  }

  // [text, number of the outcome], or nothing where an arm was not asked
  function reply(arm, number) {
    const found = cell(arm);
    return found && found.replies[number] >= 0
      ? [replies.texts[found.replies[number]], Number(found.outcomes[number])] : null;
  }

  function chooseView() {
    const { arms, seeds, steps } = view();
    cells = new Map(view().cells.map(([arm, seed, step, split, numbers, outcomes]) =>
      [[arm, seed, step, split].join(), { replies: numbers, outcomes }]));
    ticked = new Set([...arms.keys()].filter((arm) => arm < SHOWN));
    fill(get("seed"), seeds);
    const splits = [...new Set(view().cells.map(([, , , split]) => split))];
    fill(get("split"), splits.map((split) => split === "behaviour" ? "harmful" : split), splits);
    get("step").max = steps.length - 1;
    get("step").value = steps.length - 1;
    get("step").parentElement.hidden = steps.length < 2;
    chooseSplit();
  }

  function chooseSplit() {
    fill(get("prompt"), replies.prompts[get("split").value].map((text, i) => `${i + 1}. ${text}`));
    show();
  }

  function show() {
    get("step-name").textContent = view().steps[get("step").value];
    get("question").textContent = replies.prompts[get("split").value][prompt()];
    get("arms").replaceChildren(...view().arms.map(row));
    get("cards").replaceChildren(...view().arms.map((name, arm) => ticked.has(arm) && card(name, arm)).filter(Boolean));
  }

  function row(name, arm) {
    const made = element("div", "", "arm"), label = element("label"), box = element("input");
    box.type = "checkbox";
    box.checked = ticked.has(arm);
    box.dataset.arm = arm;
    label.append(box, ` ${name}`);
    const squares = element("div", "", "squares");
    for (const number of replies.prompts[get("split").value].keys()) {
      const found = reply(arm, number);
      if (!found) continue;
      const square = element("i", "", number === prompt() ? "chosen" : "", found[1]);
      square.title = `${number + 1}: ${replies.outcomes[found[1]]}`;
      square.dataset.prompt = number;
      squares.append(square);
    }
    made.append(label, squares);
    return made;
  }

  function card(name, arm) {
    const found = reply(arm, prompt());
    if (!found) return null;
    const [text, outcome] = found, made = element("article", "", "card", outcome), header = element("header");
    header.append(element("b", name), element("span", replies.outcomes[outcome]));
    made.append(header, element("p", text));
    return made;
  }

  function turn(by) {
    const n = get("prompt").options.length;
    get("prompt").value = (prompt() + by + n) % n;
    show();
  }

  fill(get("view"), replies.views.map((one) => one.heading));
  get("note").textContent = replies.note;
  get("legend").replaceChildren(...replies.outcomes.map((name, i) => {
    const made = element("span");
    made.append(element("span", "", "dot", i), name);
    return made;
  }));
  get("view").addEventListener("change", chooseView);
  get("split").addEventListener("change", chooseSplit);
  for (const name of ["seed", "prompt"]) get(name).addEventListener("change", show);
  get("step").addEventListener("input", show);
  get("before").addEventListener("click", () => turn(-1));
  get("after").addEventListener("click", () => turn(1));
  get("arms").addEventListener("change", (event) => {
    const arm = Number(event.target.dataset.arm);
    if (event.target.checked) ticked.add(arm); else ticked.delete(arm);
    show();
  });
  get("arms").addEventListener("click", (event) => {
    if (event.target.dataset.prompt === undefined) return;
    get("prompt").value = event.target.dataset.prompt;
    show();
  });
  chooseView();
}
