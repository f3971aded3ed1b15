"""What the runtime can do: each module registers its methods with the router."""
