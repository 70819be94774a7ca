// Swagger UI has a dark form, by a class of the root; the system says which is wanted.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  filter: true,
  // A key stays in this page only, and nothing is sent to anybody else.
  persistAuthorization: false,
  validatorUrl: null,
  tryItOutEnabled: false,
});
