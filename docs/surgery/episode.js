// An episode of CueReward and of its twin, with operations on the network between its steps.
//
// episode: {cues [n][size], rewards [n], twinRewards [n]}. The twin has the same cues and other rewards.
// events, in order; a step of the task is
//   {kind: "show", cue, noise}                the network observes a cue with its reward
//   {kind: "ask", cue, noise}                 the network observes a cue alone, and answers
// and an operation is
//   {kind: "erase_fast", layer}               fast weights become zero; without a layer, those of all layers
//   {kind: "transplant_fast", layer}          fast weights become those of the network in the twin
//   {kind: "erase_hidden"}                    the hidden state becomes zero
//   {kind: "transplant_hidden"}               the hidden state becomes that of the network in the twin
//   {kind: "scale_rate", factor}              from here on, writing and decay are scaled; 0 stops writing
"use strict";

globalThis.Episode = (() => {
  const { initialState, step, eraseFast, transplantFast, eraseHidden, transplantHidden } = globalThis.PlasticNetwork;

  const NOISE_CLIP = 4; // standard deviations, as in the environment

  const OPERATIONS = {
    erase_fast: (network, state, twin, { layer }) => eraseFast(network, state, layer),
    transplant_fast: (network, state, twin, { layer }) => transplantFast(state, twin, layer),
    erase_hidden: (network, state) => eraseHidden(state),
    transplant_hidden: (network, state, twin) => transplantHidden(state, twin),
    scale_rate: (network, state) => state,
  };

  const isOperation = ({ kind }) => kind in OPERATIONS;

  // Play an episode and its twin. Returns positions 0 to events.length, the situation after so many events, each
  // {state, twin, rateFactor, answer, eta}; answer and eta are those of the last step of the task. No operation is made
  // on the twin.
  function play(network, { cues, rewards, twinRewards }, events) {
    let position = { state: initialState(network), twin: initialState(network), rateFactor: 1, answer: 0, eta: 0 };
    const positions = [position];
    for (const event of events) {
      const { state, twin, rateFactor } = position;
      if (isOperation(event)) {
        const changed = OPERATIONS[event.kind](network, state, twin, event);
        position = { ...position, state: changed, rateFactor: event.factor ?? rateFactor };
      } else {
        const view = cues[event.cue].map((each, i) => each + event.noise[i]);
        const isShown = event.kind === "show";
        const x = observation(view, isShown ? rewards[event.cue] : null);
        const twinX = observation(view, isShown ? twinRewards[event.cue] : null);
        const made = step(network, state, x, rateFactor);
        const twinMade = step(network, twin, twinX);
        position = { state: made.state, twin: twinMade.state, rateFactor, answer: made.answer, eta: made.eta };
      }
      positions.push(position);
    }
    return positions;
  }

  // The observation of a cue with its reward, or without (null): the cue, the reward or 0, and 1 at queries.
  const observation = (view, reward) => [...view, reward ?? 0, reward === null ? 1 : 0];

  // The answers to a query about each cue, without noise, if it came next. The state stays as it is.
  const answers = (network, state, cues) =>
    cues.map((cue) => clipped(step(network, state, observation(cue, null)).answer));

  // Answers outside the task's range count as its bounds.
  const clipped = (answer) => Math.min(Math.max(answer, -1), 1);

  const meanSquaredError = (given, targets) =>
    given.reduce((sum, each, i) => sum + (each - targets[i]) ** 2, 0) / given.length;

  const FITS = 0.1; // a mean squared error below this is a fit

  // What the answers fit: the class and the words of a verdict. An episode fits if the error is small; the nearer one
  // fits in part if the error is at most half that of answering 0.
  function verdict(given, rewards, twinRewards) {
    const compared = (name, whose, targets) => {
      const zero = meanSquaredError(targets.map(() => 0), targets);
      return { name, whose, error: meanSquaredError(given, targets), zero };
    };
    const [own, twin] = [compared("own", "its episode", rewards), compared("twin", "the twin's episode", twinRewards)];
    if (own.error < FITS && twin.error < FITS) return ["none", "fits both episodes, so it cannot be told which"];
    const { name, whose, error, zero } = own.error <= twin.error ? own : twin;
    if (error < FITS) return [name, `fits ${whose}${zero < FITS ? ", as 0 does" : ""}`];
    return error > 0.5 * zero ? ["none", "fits neither episode"] : [name, `fits ${whose} in part`];
  }

  // Uniform random numbers in [0, 1), from a linear congruential generator modulo 2^32.
  function makeRandom(seed) {
    let value = seed >>> 0;
    return () => {
      value = (Math.imul(value, 1664525) + 1013904223) >>> 0;
      return value / 2 ** 32;
    };
  }

  // Gaussian noise by the transform of Box and Muller, clipped.
  function drawNoise(random, size, deviation) {
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return Array.from({ length: size }, () => deviation * Math.min(Math.max(normal(), -NOISE_CLIP), NOISE_CLIP));
  }

  // Draw cues, rewards, the twin's rewards, and the support phase: cues with their rewards, drawn with replacement.
  function draw(task, random) {
    const list = (length, make) => Array.from({ length }, make);
    const reward = () => 2 * random() - 1;
    const episode = {
      cues: list(task.n_cues, () => list(task.cue_size, random)),
      rewards: list(task.n_cues, reward),
      twinRewards: list(task.n_cues, reward),
    };
    const events = list(task.n_support, () => {
      const cue = Math.floor(random() * task.n_cues);
      return { kind: "show", cue, noise: drawNoise(random, task.cue_size, task.noise) };
    });
    return { episode, events };
  }

  return { play, answers, clipped, meanSquaredError, verdict, isOperation, makeRandom, drawNoise, draw };
})();
