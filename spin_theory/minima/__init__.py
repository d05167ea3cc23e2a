"""Where the objectives are least: closed forms, certified searches, lower bounds."""
