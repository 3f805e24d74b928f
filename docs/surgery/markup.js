// The words and the elements of the page "Surgery on a memory".
"use strict";

globalThis.Markup = (() => {
  const networks = globalThis.trainedNetworks;
  const rules = Object.keys(networks);

  const NAMES = ["A", "B", "C", "D", "E", "F", "G", "H"];
  const LAYERS = {
    input: "input",
    input_to_hidden: "input to hidden",
    hidden_to_hidden: "hidden to hidden",
    readout: "readout",
  };
  const TITLES = { hebbian: "Hebbian rule", gradient: "Gradient rule", delta: "Delta rule" };
  // What a step adds to a fast weight.
  const WRITTEN = {
    hebbian: "η α ⊙ (p ⊗ u)",
    gradient: "η α ⊙ (p ⊗ ∂L/∂q)",
    delta: "η k ⊗ (v − k W)",
  };
  const OPERATIONS = {
    erase_fast: { label: "Erase", name: "Erase the fast weights", chip: "W erased" },
    transplant_fast: { label: "Transplant the twin's", name: "Transplant the twin's fast weights", chip: "twin's W" },
    erase_hidden: { label: "Erase", name: "Erase the hidden state", chip: "h erased" },
    transplant_hidden: { label: "Transplant the twin's", name: "Transplant the twin's hidden state", chip: "twin's h" },
  };

  // Experiments: an operation before or after the support phase, and what to look at.
  const EXPERIMENTS = [
    {
      label: "1 Erase the fast weights",
      after: { kind: "erase_fast" },
      text:
        "The fast weights are zero, and the answers no longer depend on the rewards: drag one, and the dots hardly move. The " +
        "hidden state was not touched, so the memory was not there.",
    },
    {
      label: "2 Never write",
      before: { kind: "scale_rate", factor: 0 },
      text:
        "The writing rate η is 0 from the start, so W stays zero. The networks observe every reward and remember none: " +
        "drag one, and the dots hardly move.",
    },
    {
      label: "3 Transplant the fast weights",
      after: { kind: "transplant_fast" },
      text:
        "Each network receives the fast weights that it has in the twin, after other rewards of the same cues. " +
        "Now it gives the twin's answers: the facts moved with W.",
    },
    {
      label: "4 Transplant the hidden state",
      after: { kind: "transplant_hidden" },
      text:
        "The hidden state of the twin takes the place of the network's own. The answers hardly move: the facts are not " +
        "in the hidden state.",
    },
    {
      label: "5 Erase one layer",
      after: { kind: "erase_fast", layer: "input" },
      text:
        "Only the fast weights of the input layer are erased. In most episodes the gradient and the Hebbian network " +
        "forget most, and the delta network little: its memory is in the layer from input to hidden units.",
    },
  ];

  const ICONS = {
    first: "M3 3h2v10H3zM13 3v10L6 8z",
    back: "M12 3v10L4 8z",
    forward: "M4 3v10l8-5z",
    last: "M11 3h2v10h-2zM3 3v10l7-5z",
  };

  const button = (action, label, options = "") =>
    `<button type="button" data-action="${action}" ${options}>${label}</button>`;
  const iconButton = (action, label) =>
    button(
      action,
      `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[action]}"/></svg>`,
      `class="icon" aria-label="${label}" title="${label}"`,
    );

  const lane = (rule) => `
    <div class="lane" data-rule="${rule}"><span class="lane-name">${rule}</span>
      <span class="axis" aria-hidden="true">
        <i class="zero"></i><i class="twin"></i><i class="own"></i><i class="dot"></i>
      </span>
      <span class="value"></span></div>`;

  const cueCard = (index) => `
    <section class="cue" data-cue="${index}" aria-label="Cue ${NAMES[index]}">
      <div class="cue-left">
        <button type="button" data-action="redraw" class="tile" title="Draw another pattern for cue ${NAMES[index]}"
          aria-label="Draw another pattern for cue ${NAMES[index]}"><canvas></canvas><b>${NAMES[index]}</b></button>
        ${button("show", "Show", `aria-label="Show cue ${NAMES[index]} with its reward"`)}
        ${button("ask", "Ask", `aria-label="Ask about cue ${NAMES[index]}"`)}
      </div>
      <div class="cue-right">
        <p class="facts"><span class="times-shown"></span><span>twin's <b class="twin-reward"></b></span></p>
        <div class="lane reward"><span class="lane-name">reward</span>
          <input type="range" min="-1" max="1" step="0.01" aria-label="Reward of cue ${NAMES[index]}">
          <b class="own-reward value" aria-hidden="true"></b></div>
        ${rules.map(lane).join("")}
      </div>
    </section>`;

  const map = (rule, layer) => {
    const { weight, plastic, alpha_bias } = networks[rule].layers[layer];
    const [inputs, outputs] = [weight.length + (alpha_bias ? 1 : 0), weight[0].length];
    return `<figure class="map ${layer}" data-layer="${layer}">
      ${plastic ? `<canvas role="img" style="aspect-ratio: ${outputs} / ${inputs}"></canvas>` : `<p>not plastic</p>`}
      <figcaption>${LAYERS[layer]}</figcaption></figure>`;
  };

  const networkCard = (rule) => `
    <section class="network" data-rule="${rule}" aria-labelledby="surgery-${rule}">
      <header><h2 id="surgery-${rule}">${TITLES[rule]}</h2><span class="verdict"></span></header>
      <p class="equation">${equation(networks[rule])}<br>${settings(networks[rule])}</p>
      <div class="maps">${Object.keys(LAYERS).map((layer) => map(rule, layer)).join("")}
        <div class="inside">
          <figure><div class="rates" role="img"></div><figcaption>η at each step</figcaption></figure>
          <figure><canvas class="hidden-state" role="img"></canvas><figcaption>hidden state h</figcaption></figure>
        </div>
      </div>
      <p class="numbers"></p>
    </section>`;

  const equation = ({ rule, decay }) => `W ← ${decay ? "(1 − d) W" : "W"} + ${WRITTEN[rule]}`;

  // The decay and the limit of a network. One unit sets both d and η, so their ratio is the same at all steps.
  function settings({ rate, decay, max_norm }) {
    const decayText = decay ? `d = ${Number((decay / rate).toPrecision(3))} η` : "no decay";
    return `${decayText}, ${max_norm === null ? "no limit" : `norm of an update ≤ ${max_norm}`}`;
  }

  const operationButton = (kind) => {
    const { label, name } = OPERATIONS[kind];
    return button("operate", label, `data-kind="${kind}" class="operation ${kind}" aria-label="${name}"`);
  };

  // The operating table.
  const table = (nCues) => `
    <div class="experiments" role="group" aria-label="Experiments">
      <span>Try:</span>${EXPERIMENTS.map(({ label }, i) => button("experiment", label, `data-index="${i}"`)).join("")}
    </div>
    <p class="message" role="status"></p>
    <div class="transport" role="group" aria-label="Episode">
      ${button("new", "New episode", 'class="primary"')}${button("empty", "Empty")}
      <span class="steps">${iconButton("first", "To the start")}${iconButton("back", "One step back")}
      ${button("play", "Play", 'class="primary play"')}
      ${iconButton("forward", "One step forward")}${iconButton("last", "To the end")}</span>
      <input type="range" class="position" min="0" step="1" aria-label="Position in the episode">
      <span class="position-text" aria-hidden="true"></span>
    </div>
    <div class="events" aria-hidden="true"></div>
    <section class="operations" aria-label="Operations at this moment">
      <div role="group" aria-label="Fast weights">
        <span>Fast weights W</span>
        <select class="layer" aria-label="Layer"><option value="">all layers</option>
          ${Object.entries(LAYERS).map(([layer, label]) => `<option value="${layer}">${label}</option>`).join("")}
        </select>
        ${operationButton("erase_fast")}${operationButton("transplant_fast")}
      </div>
      <div role="group" aria-label="Hidden state">
        <span>Hidden state h</span>${operationButton("erase_hidden")}${operationButton("transplant_hidden")}
      </div>
      <div role="group" aria-label="Writing">
        <span>Writing</span>${button("stop-writing", "Stop", 'class="operation scale_rate"')}
        <label class="rate">η × <span class="value"></span>
          <input type="range" class="rate-factor" min="0" max="2" step="0.1" aria-label="Factor of the rate eta"></label>
      </div>
      <div class="remove">
        ${button("remove", "Remove this event")}${button("heal", "Remove all operations")}
      </div>
    </section>
    <div class="cues">${Array.from({ length: nCues }, (_, index) => cueCard(index)).join("")}</div>
    <p class="legend">
      <span><i class="own"></i>right answer</span><span><i class="twin"></i>right for the twin</span>
      <span><i class="zero"></i>without memory</span>
      <span>${rules.map((rule) => `<i class="dot" data-rule="${rule}"></i>`).join("")}answers, if asked now</span>
      <span class="scale">W: − <i></i> +</span>
    </p>
    <div class="networks">${rules.map(networkCard).join("")}</div>`;

  // The table of scores below the explanation.
  function scores() {
    const { interventions, oracle, memoryless, episodes } = networks[rules[0]].scores;
    const three = (value) => value.toFixed(3);
    const two = (value) => value.toFixed(2);
    const pair = (rule, name) => {
      const result = networks[rule].scores.interventions[name];
      return `<td>${result ? `${two(result.own)} → ${two(result.twin)}` : "–"}</td>`;
    };
    const row = (name) => `<tr>
      <th scope="row">${interventions[name].label}</th>${rules.map((rule) => pair(rule, name)).join("")}</tr>`;
    return `<table class="scores">
      <caption>Mean squared errors at the queries of ${episodes} test episodes, against the episode's rewards → against
        the twin's. The oracle has ${three(oracle)}, the best agent without memory ${three(memoryless)}.</caption>
      <thead><tr><td></td>${rules.map((rule) => `<th scope="col">${rule}</th>`).join("")}</tr></thead>
      <tbody>${Object.keys(interventions).map(row).join("")}</tbody></table>`;
  }

  return { NAMES, LAYERS, OPERATIONS, EXPERIMENTS, table, scores };
})();
