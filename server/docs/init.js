"use strict";

window.api = SwaggerUIBundle({
  url: document.currentScript.dataset.contract,
  dom_id: "#api",
  deepLinking: true,
  // The default sends the contract to a validator on the internet.
  validatorUrl: null,
  // Tokens stay in this page's memory.
  persistAuthorization: false,
});
