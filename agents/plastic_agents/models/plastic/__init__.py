"""Networks with fast weights that change at every step: the rules, the state, and the forms that run them."""
