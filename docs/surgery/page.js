// The page "Surgery on a memory": what the visitor does, and what the page shows of it.
"use strict";

(() => {
  const { play, answers, clipped, meanSquaredError, verdict, isOperation } = globalThis.Episode;
  const { makeRandom, drawNoise, draw } = globalThis.Episode;
  const { NAMES, LAYERS, OPERATIONS, EXPERIMENTS, table, scores } = globalThis.Markup;
  const { cue: drawCue, heatMap, readColours, repaint } = globalThis.Drawing;
  const networks = globalThis.trainedNetworks;
  const rules = Object.keys(networks);
  const task = networks[rules[0]].task;

  const FIRST_SEED = 3881; // an episode that shows every cue twice, with a twin that differs in every reward
  const STEP_TIME = 900; // milliseconds between the steps of a playing episode
  const root = document.getElementById("surgery");
  const seed = () => Math.floor(2 ** 32 * Math.random());
  let random = makeRandom(FIRST_SEED);
  let { episode, events } = draw(task, random); // replaced, never changed in place
  let position = events.length;
  let timer = null; // of a playing episode
  let frame = null; // in which the page will be rendered
  let played = {}; // the episode and events of positions and limits
  const positions = {}; // of each rule, from Episode.play
  const limits = {}; // of each rule, the weight and the hidden activity with the strongest colours

  root.innerHTML = table(episode.cues.length);
  document.getElementById("surgery-scores").innerHTML = scores();

  const find = (selector, parent = root) => parent.querySelector(selector);
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

  // --- What the page shows ------------------------------------------------------------------------------------------

  function render() {
    if (played.episode !== episode || played.events !== events) replay();
    const given = {};
    for (const rule of rules) given[rule] = answers(networks[rule], positions[rule][position].state, episode.cues);
    renderTransport();
    episode.cues.forEach((cue, index) => renderCue(index, cue, given));
    renderOperations(positions[rules[0]][position].rateFactor);
    rules.forEach((rule) => renderNetwork(rule, positions[rule][position], given[rule]));
  }

  function replay() {
    for (const rule of rules) {
      positions[rule] = play(networks[rule], episode, events);
      limits[rule] = colourLimits(positions[rule]);
    }
    played = { episode, events };
  }

  // Render once before the next frame, however many events arrive until then.
  function renderSoon() {
    frame ??= requestAnimationFrame(() => {
      frame = null;
      render();
    });
  }

  function renderTransport() {
    const slider = find(".position");
    Object.assign(slider, { max: events.length, value: position });
    slider.setAttribute("aria-valuetext", describePosition());
    find(".position-text").textContent = `${position} / ${events.length}`;
    find(".play").textContent = timer ? "Pause" : "Play";
    find(".play").disabled = events.length === 0;
    const chips = events.map((event, index) => {
      const chip = document.createElement("span");
      chip.className = `event ${event.kind}`;
      chip.dataset.position = index + 1;
      chip.classList.toggle("past", index < position);
      chip.classList.toggle("present", index === position - 1);
      if (isOperation(event)) {
        chip.textContent = describeOperation(event);
      } else {
        const tile = document.createElement("canvas");
        drawCue(tile, episode.cues[event.cue].map((each, i) => each + event.noise[i]));
        const reward = event.kind === "show" ? signed(episode.rewards[event.cue]) : "?";
        chip.append(tile, `${NAMES[event.cue]} ${reward}`);
      }
      return chip;
    });
    find(".events").replaceChildren(...chips);
  }

  function describeOperation({ kind, layer, factor }) {
    if (kind === "scale_rate") return factor === 0 ? "no writing" : `η × ${factor.toFixed(1)}`;
    return OPERATIONS[kind].chip + (layer ? `, ${LAYERS[layer]}` : "");
  }

  function describePosition() {
    if (position === 0) return "start of the episode";
    return `${position} of ${events.length}: ${describeEvent(events[position - 1])}`;
  }

  function describeEvent(event) {
    if (isOperation(event)) return describeOperation(event);
    if (event.kind === "ask") return `query about cue ${NAMES[event.cue]}`;
    return `cue ${NAMES[event.cue]} with reward ${signed(episode.rewards[event.cue])}`;
  }

  const timesShown = (index) =>
    events.slice(0, position).filter(({ kind, cue }) => kind === "show" && cue === index).length;

  const shownCues = () => episode.cues.map((_, index) => index).filter(timesShown);

  function renderCue(index, cue, given) {
    const card = find(`[data-cue="${index}"]`);
    const [own, twin, shown] = [episode.rewards[index], episode.twinRewards[index], timesShown(index)];
    drawCue(find("canvas", card), cue);
    card.classList.toggle("unknown", shown === 0);
    find(".times-shown", card).textContent = shown ? `shown ${shown} ×` : "not shown yet";
    find(".own-reward", card).textContent = signed(own);
    find(".twin-reward", card).textContent = signed(twin);
    const slider = find("input", card);
    slider.value = own;
    slider.setAttribute("aria-valuetext", signed(own));
    card.style.setProperty("--own", own);
    card.style.setProperty("--twin", twin);
    for (const rule of rules) {
      const row = find(`.lane[data-rule="${rule}"]`, card);
      row.style.setProperty("--answer", given[rule][index]);
      find(".value", row).textContent = signed(given[rule][index]);
    }
  }

  function renderOperations(factor) {
    find(".rate .value").textContent = factor.toFixed(1);
    const slider = find(".rate-factor");
    slider.value = factor;
    find('[data-action="stop-writing"]').textContent = factor === 0 ? "Resume" : "Stop";
    find('[data-action="remove"]').disabled = position === 0;
    find('[data-action="heal"]').disabled = !events.some(isOperation);
  }

  // The strongest colours are for weights of four times the root mean square, at its largest in the episode, and for
  // the largest hidden activity of the episode, which has no bound in some cells.
  function colourLimits(positions) {
    const meanSquare = ({ state }) => {
      const weights = Object.values(state.fast).flatMap(({ weight }) => weight.flat());
      return weights.reduce((sum, each) => sum + each * each, 0) / weights.length;
    };
    const hidden = Math.max(...positions.flatMap(({ state }) => state.hidden.map(Math.abs)));
    return { W: 4 * Math.sqrt(Math.max(...positions.map(meanSquare))), h: hidden };
  }

  const withBias = (rule, layer, { weight, bias }) =>
    networks[rule].layers[layer].alpha_bias ? [...weight, bias] : weight;

  function renderNetwork(rule, { state }, given) {
    const card = find(`.network[data-rule="${rule}"]`);
    for (const [layer, fast] of Object.entries(state.fast)) {
      const canvas = find(`[data-layer="${layer}"] canvas`, card);
      heatMap(canvas, withBias(rule, layer, fast), limits[rule].W);
      const norm = Math.sqrt(fast.weight.flat().reduce((sum, each) => sum + each * each, 0));
      canvas.setAttribute("aria-label", `Fast weights of the layer ${LAYERS[layer]}: norm ${norm.toFixed(2)}`);
    }
    const hidden = find(".hidden-state", card);
    heatMap(hidden, [state.hidden], limits[rule].h);
    hidden.setAttribute("aria-label", `Hidden state of ${state.hidden.length} units`);
    renderRates(find(".rates", card), rule);
    const shown = shownCues();
    const of = (values) => shown.map((index) => values[index]);
    const error = (targets) => meanSquaredError(of(given), of(targets));
    const { own, twin } = { own: error(episode.rewards), twin: error(episode.twinRewards) };
    const zero = meanSquaredError(shown.map(() => 0), of(episode.rewards));
    const targets = [of(episode.rewards), of(episode.twinRewards)];
    const [name, text] = shown.length ? verdict(of(given), ...targets) : ["none", ""];
    Object.assign(find(".verdict", card), { className: `verdict ${name}`, textContent: text });
    // What is zero in the whole episode needs no scale of its colours.
    const scales = Object.entries(limits[rule]).filter(([_, limit]) => limit > 0);
    const colours = scales.map(([what, limit]) => `|${what}| ≥ ${limit.toPrecision(2)}`).join(", ");
    find(".numbers", card).innerHTML =
      (shown.length
        ? `Squared error <b>${own.toFixed(3)}</b> (answering 0: ${zero.toFixed(3)}), against the twin's rewards ` +
          `<b>${twin.toFixed(3)}</b>. `
        : "No cue has been shown. ") + (colours && `Strongest colours: ${colours}.`);
  }

  function renderRates(bars, rule) {
    const highest = networks[rule].rate;
    const steps = events.map((event, i) => [event, i + 1]).filter(([event]) => !isOperation(event));
    bars.replaceChildren(
      ...steps.map(([event, at]) => {
        const bar = document.createElement("i");
        const eta = positions[rule][at].eta;
        bar.style.setProperty("--share", at <= position ? Math.min(eta / highest, 1) : 0);
        bar.className = event.kind;
        bar.title = `η = ${eta.toFixed(3)}`;
        return bar;
      }),
    );
    bars.setAttribute("aria-label", `Writing rate of the last step: ${positions[rule][position].eta.toFixed(3)}`);
  }

  const say = (text) => (find(".message").textContent = text);

  // --- What the visitor does ----------------------------------------------------------------------------------------

  const replaced = (list, at, value) => list.map((each, i) => (i === at ? value : each));

  function insert(event) {
    const before = events[position - 1];
    if (event.kind === "scale_rate" && before?.kind === "scale_rate") {
      events = replaced(events, position - 1, event);
    } else {
      events = [...events.slice(0, position), event, ...events.slice(position)];
      position += 1;
    }
    render();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
  }

  function start(from, until) {
    stop();
    position = from;
    timer = setInterval(() => {
      position += 1;
      if (position >= until) stop();
      render();
    }, STEP_TIME);
    render();
  }

  function go(to) {
    stop();
    position = Math.min(Math.max(to, 0), events.length);
    render();
  }

  const step = (kind, cue) => ({ kind, cue, noise: drawNoise(random, task.cue_size, task.noise) });

  const ACTIONS = {
    new() {
      random = makeRandom(seed());
      ({ episode, events } = draw(task, random));
      say("New cues, new rewards. Watch the fast weights fill.");
      start(0, events.length);
    },
    empty() {
      events = [];
      say("An empty episode: show the cues that you like, then ask.");
      go(0);
    },
    first: () => go(0),
    back: () => go(position - 1),
    forward: () => go(position + 1),
    last: () => go(events.length),
    play() {
      if (timer) return go(position);
      if (events.length) start(position < events.length ? position : 0, events.length);
    },
    redraw(_, cue) {
      episode = { ...episode, cues: replaced(episode.cues, cue, episode.cues[cue].map(random)) };
      render();
    },
    show(_, cue) {
      stop();
      insert(step("show", cue));
      say(`Shown: cue ${NAMES[cue]} with reward ${signed(episode.rewards[cue])}.`);
    },
    ask(_, cue) {
      stop();
      insert(step("ask", cue));
      const given = rules.map((rule) => `${rule} ${signed(clipped(positions[rule][position].answer))}`).join(", ");
      const own = `${signed(episode.rewards[cue])}${timesShown(cue) ? "" : " (not shown)"}`;
      const right = `right ${own}, for the twin ${signed(episode.twinRewards[cue])}`;
      say(`Asked about cue ${NAMES[cue]}: ${given}; ${right}, without memory 0.`);
    },
    operate({ dataset: { kind } }) {
      stop();
      const layer = kind.endsWith("_fast") ? find(".layer").value : "";
      insert(layer ? { kind, layer } : { kind });
      sayVerdicts(describeOperation(events[position - 1]));
    },
    "stop-writing"() {
      stop();
      const factor = positions[rules[0]][position].rateFactor === 0 ? 1 : 0;
      insert({ kind: "scale_rate", factor });
      say(factor ? "The networks write again." : "From here on, the networks do not write. Show a cue, or play on.");
    },
    remove() {
      const removed = describeEvent(events[position - 1]);
      events = events.filter((_, index) => index !== position - 1);
      go(position - 1);
      say(`Removed: ${removed}.`);
    },
    heal() {
      const removed = events.slice(0, position).filter(isOperation).length;
      events = events.filter((event) => !isOperation(event));
      go(position - removed);
      sayVerdicts("All operations removed");
    },
    experiment({ dataset: { index } }) {
      const { before, after, text } = EXPERIMENTS[index];
      const steps = events.filter(({ kind }) => kind === "show");
      const support = steps.length ? steps : draw(task, random).events;
      events = [...(before ? [before] : []), ...support, ...(after ? [after] : [])];
      say(text);
      // The last steps happen before the visitor's eyes.
      start(before ? 0 : events.length - 1, events.length);
    },
  };

  function sayVerdicts(what) {
    if (!shownCues().length) return say(`${what}: no cue has been shown yet.`);
    const verdicts = rules.map((rule) => `${rule} ${find(`.network[data-rule="${rule}"] .verdict`).textContent}`);
    say(`${what}: ${verdicts.join("; ")}.`);
  }

  root.addEventListener("click", ({ target }) => {
    const chip = target.closest(".event");
    if (chip) go(Number(chip.dataset.position));
    const pressed = target.closest("[data-action]");
    if (pressed) ACTIONS[pressed.dataset.action](pressed, Number(pressed.closest("[data-cue]")?.dataset.cue));
  });

  root.addEventListener("input", ({ target }) => {
    const value = Number(target.value);
    if (target.matches(".position")) go(value);
    if (target.matches(".rate-factor")) {
      stop();
      insert({ kind: "scale_rate", factor: value });
    }
    if (target.matches(".cue input")) {
      const cue = Number(target.closest(".cue").dataset.cue);
      episode = { ...episode, rewards: replaced(episode.rewards, cue, value) };
      renderSoon();
    }
  });

  const observer = new MutationObserver(() => repaint(root));
  observer.observe(document.body, { attributeFilter: ["data-md-color-scheme"] });

  readColours(root);
  render();
  say("The networks have observed four cues with their rewards, in eight steps. Drag a reward, operate, or press New episode.");
})();
