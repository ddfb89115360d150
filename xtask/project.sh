# Sourced by scripts that measure: `project NAME LINES` writes a small text, of LINES lines a file, and the head of its `hairpin.toml` into this folder.
project() {
    mkdir corpus
    for i in $(seq 60); do
        for j in $(seq "$2"); do echo "the road number $((i * 37 + j * 11)) turns beyond the hill $j of $i and goes on"; done >"corpus/$i.txt"
    done
    cat >hairpin.toml <<END
name = "$1"
[data]
held_out_ratio = 0.1
tokenizer = { kind = "bytes" }
[data.corpus]
paths = ["corpus"]
[data.dedup]
near = false
[data.clean]
off = ["repeated_ngram"]
END
}
