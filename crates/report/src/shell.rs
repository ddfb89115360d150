//! What every page is framed by.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A whole page around what it has to say, with nothing in it that reorders text or tells a secret.
pub(crate) fn shell(brand: &str, title: &str, main: &Markup) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "hairpin: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.brand { (brand) }
                    h1 { (title) }
                }
                main { (main) }
            }
        }
    };
    // Names and samples come from files and models.
    disk::printable(&markup.into_string()).into_owned()
}

const STYLE: &str = "
:root{--bg:#fbfaf7;--fg:#1d1f23;--soft:#667;--line:#dedbd2;--card:#fff;--ok:#1a7f4b;--bad:#b3261e;--s0:#2a5fb8;--s1:#c2570c;--s2:#1a7f4b;--s3:#7b3fa0}
@media (prefers-color-scheme:dark){:root{--bg:#14161a;--fg:#e7e6e2;--soft:#9aa0ab;--line:#30343c;--card:#1c1f25;--ok:#58c48b;--bad:#ff8a80;--s0:#7aa7f0;--s1:#f0a060;--s2:#58c48b;--s3:#c79be6}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
header,main{max-width:72rem;margin:0 auto;padding:0 1.25rem}header{padding-top:2rem}
.brand{margin:0;color:var(--soft);letter-spacing:.08em}h1{margin:.1rem 0 1.2rem;font-size:2rem;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2.2rem 0 .8rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.8rem}
.card,figure,details{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.9rem 1rem;margin:0}
.value{margin:0;font-size:1.7rem;font-variant-numeric:tabular-nums}.what{margin:0;color:var(--soft);font-size:.85rem}
details{margin:.6rem 0}summary{cursor:pointer}
.badge{font-size:.78rem;padding:.1rem .5rem;border-radius:1rem;color:var(--bg)}.badge.ok{background:var(--ok)}.badge.bad{background:var(--bad)}
.dot{display:inline-block;width:.6rem;height:.6rem;border-radius:50%}.dot.ok{background:var(--ok)}.dot.bad{background:var(--bad)}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:.8rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}th{text-align:left;color:var(--soft);font-weight:500}
td,th{padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}.n{text-align:right;font-variant-numeric:tabular-nums}.whole{white-space:nowrap}
figcaption{color:var(--soft);margin-bottom:.4rem}pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.82rem}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,13rem),1fr));gap:.8rem}.pictures figure:only-child{grid-column:1/-1}
img{max-width:100%;height:auto;display:block;image-rendering:pixelated}figure .what{margin-top:.4rem}
svg{width:100%;height:auto;display:block}.grid{stroke:var(--line)}.mark{stroke:var(--soft);stroke-dasharray:4 4}
.tick,.label{fill:var(--soft);font-size:11px}.name{fill:var(--soft);font-size:8.5px}.line{fill:none;stroke-width:1.6}.faint{stroke:var(--soft);stroke-width:.7}
.d0{fill:var(--s1);stroke:var(--fg);stroke-width:1.5}.d1{fill:var(--s1)}.d2{fill:var(--soft);opacity:.75}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}
.key{display:inline-block;width:.9rem;height:.2rem;vertical-align:middle;margin:0 .35rem 0 .7rem}.k0{background:var(--s0)}.k1{background:var(--s1)}.k2{background:var(--s2)}.k3{background:var(--s3)}
.legend{margin:.3rem 0 0;color:var(--soft);font-size:.85rem}.warn{color:var(--bad)}main{padding-bottom:3rem}
";
