//! Serial consoles: one ring since power-on and many viewers for each VM. Tokio tasks; must not know who is watching.
