"use strict";

for (const part of ["pinning", "own"]) {
  window[part] = SwaggerUIBundle({
    url: document.currentScript.dataset[part],
    dom_id: "#" + part,
    // Two contracts on one page would fight over the address.
    deepLinking: false,
    // The default sends the contract to a validator on the internet.
    validatorUrl: null,
    // Tokens stay in this page's memory.
    persistAuthorization: false,
  });
}
