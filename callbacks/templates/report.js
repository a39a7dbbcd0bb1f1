"use strict";
const page = document.documentElement, found = document.getElementById("found");
const articles = [...document.querySelectorAll("article")];
for (const img of document.querySelectorAll("[data-copy]")) img.src = document.getElementById(img.dataset.copy).src;

function pickStep(input) {
  const maps = input.closest(".maps"), at = Number(input.value);
  const text = JSON.parse(input.dataset.texts)[at];
  maps.style.setProperty("--at", at);
  maps.querySelector("output").textContent = text;
  input.setAttribute("aria-valuetext", text);
  for (const b of maps.querySelectorAll("[data-ious]")) {
    b.textContent = "IoU " + JSON.parse(b.dataset.ious)[at].toFixed(2);
  }
}

function filterBy(text) {
  const words = text.toLowerCase().split(/\s+/);
  for (const article of articles) {
    const said = article.dataset.find.toLowerCase();
    article.hidden = !words.every((word) => said.includes(word));
  }
  found.textContent = articles.filter((article) => !article.hidden).length + " of " + articles.length;
}

document.addEventListener("input", ({ target }) => {
  if (target.matches(".cut")) target.parentElement.style.setProperty("--cut", target.value + "%");
  else if (target.matches(".pick")) pickStep(target);
  else if (target.name === "before") page.dataset.before = target.value;
  else if (target.id === "filter") filterBy(target.value);
});
