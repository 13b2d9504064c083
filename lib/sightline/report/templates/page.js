"use strict";
// Inside another page (Snakemake's report) the neighbouring files are not there, so the links are hidden.
if (window.self !== window.top) document.getElementById("pages").hidden = true;
