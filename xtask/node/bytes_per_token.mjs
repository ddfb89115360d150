// Bytes per token of crates/plan/src/catalogue/languages.toml, by three published vocabularies (50k, 100k, 200k).
// Text: the Debian Handbook in its translations, without listings, markup, and paragraphs that stand untranslated; code: the
// sources that cargo fetched.
//
//   cd target && npm pack gpt-tokenizer@4.0.0 && tar xzf gpt-tokenizer-4.0.0.tgz
//   apt-get download debian-handbook && dpkg -x debian-handbook_*.deb handbook
//   node ../xtask/node/bytes_per_token.mjs package handbook/usr/share/doc/debian-handbook/html ~/.cargo/registry/src
import fs from "fs";
import path from "path";

const [tokenizers, handbook, sources] = process.argv.slice(2);
const encodings = await Promise.all(
  ["r50k_base", "cl100k_base", "o200k_base"].map((name) => import(path.resolve(tokenizers, "esm/encoding", `${name}.js`))),
);

function read(folder, ending, most) {
  const texts = [];
  let size = 0;
  const walk = (at) => {
    for (const name of fs.readdirSync(at).sort()) {
      if (size > most) return;
      const file = path.join(at, name);
      const kind = fs.lstatSync(file);
      if (kind.isDirectory()) walk(file);
      else if (kind.isFile() && name.endsWith(ending)) size += texts[texts.push(fs.readFileSync(file, "utf8")) - 1].length;
    }
  };
  walk(folder);
  return texts;
}

// Paragraphs long enough to be sentences.
const paragraphs = (html) =>
  html
    .replace(/<(script|style|pre)[\s\S]*?<\/\1>/g, " ")
    .split(/<\/(?:p|li|h\d|td|dd|dt|div)>/)
    .map((text) => text.replace(/<[^>]*>/g, " ").replace(/&[a-z#0-9]+;/g, " ").replace(/\s+/g, " ").trim())
    .filter((text) => text.length > 80);

function row(name, text) {
  const bytes = Buffer.byteLength(text);
  const ratios = encodings.map((e) => (bytes / e.encode(text, { disallowedSpecial: new Set() }).length).toFixed(2));
  console.log(`${name} ${bytes} ${ratios.join(" ")}`);
}

const book = (language) => read(path.join(handbook, language), ".html", 1 << 24).flatMap(paragraphs);
const english = new Set(book("en-US"));
for (const language of fs.readdirSync(handbook).sort()) {
  const text = book(language).filter((p) => language === "en-US" || !english.has(p));
  row(language, text.join("\n").slice(0, 600_000));
}
row("code", read(sources, ".rs", 6_000_000).join("\n"));
