"""What the API is, as a document of OpenAPI 3.1 and as a page: made from the table of routes alone."""
