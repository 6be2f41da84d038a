//! Who may do what: users, tokens, roles, and the table of which method needs which role. Runs on any task; must not know a resource.
