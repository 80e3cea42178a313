"""The management API: one route table, endpoints that parse, call one service and encode, and what guards them."""
