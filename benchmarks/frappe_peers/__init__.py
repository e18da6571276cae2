"""Workers that train Frappe's models in the environment of each library."""
