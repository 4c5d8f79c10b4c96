"""Networks that the project trained itself, and the recipe that made them."""
