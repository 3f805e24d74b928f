// A plastic network, one step at a time: the equations of docs/equations.md in JavaScript.
//
// All functions are pure: they take a network and a state, and return a new state. Vectors are arrays of numbers and
// rows; a matrix is an array of rows, one for each input. A test compares the numbers with those of Python.
//
// network: {observation_centre, observation_half_range, rule, cell, rate, decay, max_norm, readout_loss_weight, layers}
//   layers, by name: {plastic, weight, bias, alpha_weight, alpha_bias, value_weight, value_bias}
//   weight W~ [in][out] and bias b~ [out] are slow: the same in all episodes. The others exist where a rule has them.
// state: {hidden, fast}
//   hidden h [H]; fast, by the name of a plastic layer: {weight W [in][out], bias b [out]}
"use strict";

globalThis.PlasticNetwork = (() => {
  // Vectors and matrices.
  const zeros = (n) => new Array(n).fill(0);
  const plus = (u, v) => u.map((each, i) => each + v[i]);
  const minus = (u, v) => u.map((each, i) => each - v[i]);
  const times = (u, v) => u.map((each, i) => each * v[i]);
  const scaled = (factor, u) => u.map((each) => factor * each);
  const squaredNorm = (u) => u.reduce((sum, each) => sum + each * each, 0);
  const sigmoid = (m) => 1 / (1 + Math.exp(-m));
  const relu = (q) => q.map((each) => Math.max(each, 0));
  const isPositive = (a) => a.map((each) => (each > 0 ? 1 : 0)); // the derivative of relu

  // p W
  function product(p, matrix) {
    const result = zeros(matrix[0].length);
    p.forEach((factor, i) => matrix[i].forEach((each, j) => (result[j] += factor * each)));
    return result;
  }

  // d W^T
  const transposedProduct = (d, matrix) =>
    matrix.map((row) => row.reduce((sum, each, j) => sum + d[j] * each, 0));

  // The cells: h from q = q_ih + q_hh, and the derivative of h by q, given h.
  const CELLS = {
    rnn: { activity: relu, derivative: isPositive },
    tanh_rnn: { activity: (q) => q.map(Math.tanh), derivative: (h) => h.map((each) => 1 - each * each) },
  };

  // The rules: the presynaptic and the postsynaptic factor of the update p (x) u of a layer.
  const RULES = {
    // p: the layer's input; u: its activity after the nonlinearity.
    hebbian: { direction: ({ pre, post }) => ({ pre, post }), plasticBias: false },
    // u = dL/dq, with the inner loss L = mean over k of (w_out_k o_k)^2.
    gradient: { direction: ({ pre, lossGradient }) => ({ pre, post: lossGradient }), plasticBias: true },
    // k = p / |p|, v = k V + c, u = v - k W.
    delta: {
      direction({ pre, layer, fast }) {
        const key = scaled(1 / Math.sqrt(squaredNorm(pre) + 1e-6), pre);
        const value = plus(product(key, layer.value_weight), layer.value_bias);
        return { pre: key, post: minus(value, product(key, fast.weight)) };
      },
      plasticBias: false,
    },
  };

  // The state at the start of an episode: h = 0, W = 0, b = 0.
  function initialState(network) {
    return { hidden: zeros(network.layers.hidden_to_hidden.weight.length), fast: initialFast(network) };
  }

  function initialFast(network) {
    const fast = {};
    for (const [name, layer] of Object.entries(network.layers)) {
      if (layer.plastic) {
        fast[name] = { weight: layer.weight.map((row) => zeros(row.length)), bias: zeros(layer.bias.length) };
      }
    }
    return fast;
  }

  // One step from an observation. `rateFactor` scales the rates of writing and of decay: with 1 they are the network's
  // own, and with 0 the fast weights do not change. Returns {answer, eta, state}.
  function step(network, state, observation, rateFactor = 1) {
    const { layers } = network;

    // 0. The input x: each entry of the observation, rescaled by its bounds to [-1, 1].
    const x = minus(observation, network.observation_centre).map((each, i) => each / network.observation_half_range[i]);

    // q = p (W~ + W) + b~ + b
    function read(name, p) {
      const slow = plus(product(p, layers[name].weight), layers[name].bias);
      const fast = state.fast[name];
      return fast ? plus(slow, plus(product(p, fast.weight), fast.bias)) : slow;
    }

    // 1. Forward.
    const cell = CELLS[network.cell];
    const a = relu(read("input", x));
    const h = cell.activity(plus(read("input_to_hidden", a), read("hidden_to_hidden", state.hidden)));
    const o = read("readout", h);

    // 2. The rate: eta = eta_0 sigmoid(m), m being the last unit of the readout.
    const gate = rateFactor * sigmoid(o[o.length - 1]);
    const eta = network.rate * gate;
    const decay = network.decay * gate;

    // 3. The direction p (x) u of each layer.
    const pre = { input: x, input_to_hidden: a, hidden_to_hidden: state.hidden, readout: h };
    const post = { input: a, input_to_hidden: h, hidden_to_hidden: h, readout: o };
    const { direction, plasticBias } = RULES[network.rule];
    const gradients = network.readout_loss_weight ? lossGradients(network, state, { a, h, o }) : {};
    const directions = {};
    for (const [name, fast] of Object.entries(state.fast)) {
      directions[name] = direction({
        ...{ pre: pre[name], post: post[name], lossGradient: gradients[name] },
        ...{ layer: layers[name], fast },
      });
    }

    // 4. The limit: an update of all layers together has at most the norm n_max (null: no limit).
    let squared = 0;
    for (const { pre: p, post: u } of Object.values(directions)) {
      squared += (squaredNorm(p) + (plasticBias ? 1 : 0)) * squaredNorm(u);
    }
    const norm = Math.sqrt(squared);
    const isLimited = network.max_norm !== null && norm > network.max_norm;
    const writingRate = isLimited ? (eta * network.max_norm) / norm : eta;

    // 5. The update, which the next step is the first to use.
    const fast = {};
    for (const [name, { pre: p, post: u }] of Object.entries(directions)) {
      fast[name] = updated(layers[name], state.fast[name], p, scaled(writingRate, u), decay, plasticBias);
    }
    return { answer: o[0], eta, state: { hidden: h, fast } };
  }

  // dL/dq of each layer, back from the readout through this one step.
  function lossGradients(network, state, { a, h, o }) {
    const back = (name, d) => {
      const slow = transposedProduct(d, network.layers[name].weight);
      return state.fast[name] ? plus(slow, transposedProduct(d, state.fast[name].weight)) : slow;
    };
    const readout = o.map((each, k) => (2 / o.length) * network.readout_loss_weight[k] ** 2 * each);
    const hidden = times(back("readout", readout), CELLS[network.cell].derivative(h));
    const input = times(back("input_to_hidden", hidden), isPositive(a));
    return { input, input_to_hidden: hidden, hidden_to_hidden: hidden, readout };
  }

  // W <- (1 - decay) W + alpha * (p (x) written), and b <- (1 - decay) b + alpha_b * written, if biases are plastic.
  // A layer without alpha has 1 in its place.
  function updated(layer, fast, p, written, decay, plasticBias) {
    const weight = fast.weight.map((row, i) =>
      row.map((each, j) => {
        const alpha = layer.alpha_weight ? layer.alpha_weight[i][j] : 1;
        return (1 - decay) * each + alpha * p[i] * written[j];
      }),
    );
    if (!plasticBias) return { weight, bias: fast.bias };
    return { weight, bias: fast.bias.map((each, j) => (1 - decay) * each + layer.alpha_bias[j] * written[j]) };
  }

  // Operations on a state. Without the name of a layer, they change the fast weights of all layers.
  function exchangeFast(state, donor, layer) {
    if (!layer) return { ...state, fast: donor };
    return layer in state.fast ? { ...state, fast: { ...state.fast, [layer]: donor[layer] } } : state;
  }

  const eraseFast = (network, state, layer) => exchangeFast(state, initialFast(network), layer);
  const transplantFast = (state, donor, layer) => exchangeFast(state, donor.fast, layer);
  const eraseHidden = (state) => ({ ...state, hidden: zeros(state.hidden.length) });
  const transplantHidden = (state, donor) => ({ ...state, hidden: donor.hidden });

  return { initialState, step, eraseFast, transplantFast, eraseHidden, transplantHidden };
})();
