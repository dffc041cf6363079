"""An async GraphQL gateway over the Omnia Voice REST API: one GraphQL request, the fewest possible REST calls."""
