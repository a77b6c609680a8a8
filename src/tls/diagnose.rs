//! Which certificate of a refused chain broke which rule, and the way out.
