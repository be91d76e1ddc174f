"use strict";
/* What the local pages share; local_page.py puts it in front of each page's own script. */
const by = id => document.getElementById(id);
const language = navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";

/* The words of the reader's language, which the page's elements get too. */
function speak(languages) {
  const words = languages[language];
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = words[element.dataset.text];
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", words[element.dataset.label]);
    if (element.matches("textarea, input")) element.placeholder = words[element.dataset.label];
  }
  return words;
}

/* Every text is set as text: what a model or a person wrote is never markup. */
function add(parent, tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  parent.append(element);
  return element;
}

class Refused extends Error {}

async function post(path, content, signal) {
  const headers = { "Content-Type": "application/json" };
  try {
    return await fetch(path, { method: "POST", headers, body: JSON.stringify(content), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(words.lost);
  }
}
