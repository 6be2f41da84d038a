//! The inventory on disk: SQLite. The only room that touches the database.
