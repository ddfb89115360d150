//! `pytorch_model.bin`: a zip of a pickle and of the numbers as they lie in memory. A pickle is a program for a small machine with a stack, which
//! may name any function to be called; this reader knows the four that tensors are made by, and refuses all others by name. Nothing is run.
//!
//! The format: Python's `pickletools`, and `torch.serialization` since PyTorch 1.6.

use std::{collections::HashMap, fs::File, io::Read};

use super::number::{Found, Number};

/// Of the pickle, which holds no numbers.
const LARGEST_BYTES: u64 = 256 << 20;
/// Things on the stack and in the memo.
const MOST_VALUES: usize = 1 << 24;

/// The tensors of such a file.
/// # Errors
/// In words: it is no zip of PyTorch, is torn, would call something, or a tensor is no plain run of numbers.
pub(super) fn tensors(file: &File) -> Result<Vec<Found>, String> {
    let older = "is no zip file: PyTorch before 1.6 wrote another format, which `torch.save(torch.load(..., weights_only=True), ...)` turns into this one";
    let mut zip = zip::ZipArchive::new(file).map_err(|e| format!("{older} ({e})"))?;
    let pickle = zip.file_names().flatten().find(|name| name.ends_with("/data.pkl")).map(std::borrow::Cow::into_owned);
    let pickle = pickle.ok_or("it holds no `data.pkl`")?;
    let folder = pickle.trim_end_matches("data.pkl").to_owned();
    let mut bytes = Vec::new();
    let entry = zip.by_name(&pickle).map_err(|e| e.to_string())?;
    entry.take(LARGEST_BYTES + 1).read_to_end(&mut bytes).map_err(|e| format!("its `data.pkl` is torn: {e}"))?;
    if bytes.len() as u64 > LARGEST_BYTES {
        return Err(format!("its `data.pkl` is larger than {LARGEST_BYTES} bytes"));
    }
    if zip.by_name(&format!("{folder}byteorder")).is_ok_and(|mut entry| {
        let mut order = String::new();
        entry.read_to_string(&mut order).is_ok() && order.trim() == "big"
    }) {
        return Err("its numbers lie with the highest byte first, which is not read".into());
    }
    let mut all = Vec::new();
    for (name, tensor) in Machine::new(&bytes).run()? {
        let path = format!("{folder}data/{}", tensor.storage);
        let entry = zip.by_name(&path).map_err(|_| format!("the numbers of `{name}` (`{path}`) are not in it"))?;
        if entry.compression() != zip::CompressionMethod::Stored {
            return Err(format!("the numbers of `{name}` are compressed, which PyTorch does not write"));
        }
        let size = tensor.kind.bytes();
        let (count, from) = (tensor.dims.iter().product::<usize>(), tensor.offset * size);
        if !matches!(tensor.kind, Number::Other(_)) && (from + count * size) as u64 > entry.size() {
            return Err(format!("`{name}` is longer than its numbers"));
        }
        let start = entry.data_start().ok_or("a file of it has no beginning")?;
        all.push((name, tensor.dims, tensor.kind, start + from as u64));
    }
    Ok(all)
}

/// A tensor as the pickle tells of it.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    storage: String,
    kind: Number,
    /// In numbers.
    offset: usize,
    dims: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Mark,
    None,
    Int(i64),
    Text(String),
    /// `module name`, which may be called.
    Global(String),
    Tuple(Vec<Thing>),
    Dict(Vec<(Thing, Thing)>),
    Storage(String, Number),
    Tensor(Box<Told>),
    /// Something that no weight is made of.
    Opaque,
}

struct Machine<'a> {
    bytes: &'a [u8],
    stack: Vec<Thing>,
    memo: HashMap<u32, Thing>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, stack: Vec::new(), memo: HashMap::new() }
    }

    /// The tensors of the table that the pickle makes.
    fn run(mut self) -> Result<Vec<(String, Told)>, String> {
        loop {
            if self.stack.len() + self.memo.len() > MOST_VALUES {
                return Err("its pickle makes too many things".into());
            }
            let op = self.take(1)?[0];
            if op == b'.' {
                break;
            }
            self.step(op)?;
        }
        let Some(Thing::Dict(entries)) = self.stack.pop() else { return Err("its pickle is no table of tensors".into()) };
        let mut all = Vec::new();
        for (key, value) in entries {
            match (key, value) {
                (Thing::Text(name), Thing::Tensor(tensor)) => all.push((name, *tensor)),
                (Thing::Text(name), _) => return Err(format!("`{name}` in it is no tensor: it is more than weights")),
                _ => return Err("a key of it is no word".into()),
            }
        }
        Ok(all)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (now, rest) = self.bytes.split_at_checked(count).ok_or("its pickle is torn")?;
        self.bytes = rest;
        Ok(now)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n').ok_or("its pickle is torn")?;
        let line = self.take(end + 1)?;
        Ok(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    fn text(&mut self, length_bytes: usize) -> Result<Thing, String> {
        let length = usize::try_from(self.number(length_bytes)?).map_err(|_| "its pickle is torn")?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a word of it is no UTF-8")?;
        Ok(Thing::Text(text.to_owned()))
    }

    fn pop(&mut self) -> Result<Thing, String> {
        self.stack.pop().ok_or_else(|| "its pickle takes more than it has".into())
    }

    /// What is above the last mark.
    fn marked(&mut self) -> Result<Vec<Thing>, String> {
        let at = self.stack.iter().rposition(|thing| *thing == Thing::Mark).ok_or("its pickle has no mark")?;
        let above = self.stack.split_off(at + 1);
        self.stack.pop();
        Ok(above)
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let at = self.stack.len().checked_sub(count).ok_or("its pickle takes more than it has")?;
        let things = self.stack.split_off(at);
        self.stack.push(Thing::Tuple(things));
        Ok(())
    }

    fn remember(&mut self, at: u64) -> Result<(), String> {
        let top = self.stack.last().ok_or("its pickle keeps what it has not")?.clone();
        self.memo.insert(at as u32, top);
        Ok(())
    }

    fn recall(&mut self, at: u64) -> Result<(), String> {
        let thing = self.memo.get(&(at as u32)).ok_or("its pickle recalls what it did not keep")?.clone();
        self.stack.push(thing);
        Ok(())
    }

    /// Put `pairs`, key after value, into the table on top.
    fn put(&mut self, things: Vec<Thing>) -> Result<(), String> {
        let mut things = things.into_iter();
        let mut pairs = Vec::new();
        while let (Some(key), Some(value)) = (things.next(), things.next()) {
            pairs.push((key, value));
        }
        match self.stack.last_mut() {
            Some(Thing::Dict(entries)) => entries.extend(pairs),
            Some(Thing::Opaque) => {}
            _ => return Err("its pickle fills something that is no table".into()),
        }
        Ok(())
    }

    fn step(&mut self, op: u8) -> Result<(), String> {
        match op {
            // PROTO, FRAME
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.stack.push(Thing::Mark),
            b'N' => self.stack.push(Thing::None),
            0x88 | 0x89 => self.stack.push(Thing::Int(i64::from(op == 0x88))),
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
            b'J' => {
                let number = self.number(4)? as u32;
                self.stack.push(Thing::Int(i64::from(number.cast_signed())));
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            0x8a => {
                let length = self.number(1)? as usize;
                let bytes = self.take(length)?;
                let is_small = length <= 8 && bytes.last().is_none_or(|last| *last < 0x80);
                let number = bytes.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
                self.stack.push(if is_small { Thing::Int(number.cast_signed()) } else { Thing::Opaque });
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Thing::Opaque);
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' | 0x8c | 0x8d => {
                let text = self.text(if op == b'X' {
                    4
                } else if op == 0x8c {
                    1
                } else {
                    8
                })?;
                self.stack.push(text);
            }
            b'}' => self.stack.push(Thing::Dict(Vec::new())),
            b']' => self.stack.push(Thing::Opaque),
            b')' => self.stack.push(Thing::Tuple(Vec::new())),
            b't' => {
                let things = self.marked()?;
                self.stack.push(Thing::Tuple(things));
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            // APPEND, APPENDS: lists are none of weights.
            b'a' => drop(self.pop()?),
            b'e' => drop(self.marked()?),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.put(vec![key, value])?;
            }
            b'u' => {
                let things = self.marked()?;
                self.put(things)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' | b'r' => {
                let at = self.number(if op == b'q' { 1 } else { 4 })?;
                self.remember(at)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let at = self.number(if op == b'h' { 1 } else { 4 })?;
                self.recall(at)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Thing::Global(format!("{module} {name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Thing::Text(module), Thing::Text(name)) = (module, name) else { return Err("its pickle names no function".into()) };
                self.stack.push(Thing::Global(format!("{module} {name}")));
            }
            b'Q' => {
                let thing = self.pop()?;
                self.stack.push(storage(thing)?);
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.stack.push(call(&function, arguments)?);
            }
            // BUILD: what a table holds besides its entries.
            b'b' => drop(self.pop()?),
            b'0' => drop(self.pop()?),
            other => return Err(format!("its pickle has an instruction (0x{other:02x}) that weights need not")),
        }
        Ok(())
    }

    fn int(&mut self, bytes: usize) -> Result<(), String> {
        let number = self.number(bytes)?;
        self.stack.push(Thing::Int(number.cast_signed()));
        Ok(())
    }
}

/// `("storage", kind, key, place, length)`.
fn storage(thing: Thing) -> Result<Thing, String> {
    let wrong = || "its pickle refers to something that is no storage of numbers".to_owned();
    let Thing::Tuple(parts) = thing else { return Err(wrong()) };
    let [Thing::Text(tag), Thing::Global(kind), Thing::Text(key), ..] = &parts[..] else { return Err(wrong()) };
    if tag != "storage" || key.contains(['/', '\\']) {
        return Err(wrong());
    }
    let kind = match kind.as_str() {
        "torch FloatStorage" => Number::F32,
        "torch HalfStorage" => Number::F16,
        "torch BFloat16Storage" => Number::Bf16,
        "torch DoubleStorage" => Number::F64,
        other if other.starts_with("torch ") && other.ends_with("Storage") => Number::Other("whole numbers or another kind"),
        other => return Err(format!("its pickle names `{other}` as a kind of numbers")),
    };
    Ok(Thing::Storage(key.clone(), kind))
}

/// The four functions that weights are made by.
fn call(function: &Thing, arguments: Thing) -> Result<Thing, String> {
    let Thing::Global(name) = function else { return Err("its pickle calls something that is no function".into()) };
    let Thing::Tuple(arguments) = arguments else { return Err(format!("its pickle calls `{name}` with no arguments")) };
    match name.as_str() {
        "collections OrderedDict" if arguments.is_empty() => Ok(Thing::Dict(Vec::new())),
        "torch._utils _rebuild_parameter" => arguments.into_iter().next().ok_or_else(|| "its pickle makes a parameter of nothing".into()),
        "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor" => tensor(&arguments),
        other => Err(format!("its pickle would call `{other}`, which no weights need: the file wants to run code")),
    }
}

/// `(storage, offset, sizes, strides, ..)`.
fn tensor(arguments: &[Thing]) -> Result<Thing, String> {
    let [Thing::Storage(storage, kind), Thing::Int(offset), Thing::Tuple(sizes), Thing::Tuple(strides), ..] = arguments else {
        return Err("its pickle makes a tensor of something else than numbers".into());
    };
    let whole = |things: &[Thing]| -> Option<Vec<usize>> {
        things.iter().map(|thing| if let Thing::Int(n) = thing { usize::try_from(*n).ok() } else { None }).collect()
    };
    let wrong = || "a tensor of it has sizes that are none".to_owned();
    let (dims, strides) = (whole(sizes).ok_or_else(wrong)?, whole(strides).ok_or_else(wrong)?);
    let offset = usize::try_from(*offset).map_err(|_| wrong())?;
    let mut run = 1_usize;
    for (dim, stride) in dims.iter().zip(&strides).rev() {
        if *dim > 1 && *stride != run {
            return Err(format!("a tensor of {dims:?} lies with strides of {strides:?}: it is a view of another, and not read"));
        }
        run = run.checked_mul((*dim).max(1)).filter(|all| *all < 1 << 48).ok_or_else(wrong)?;
    }
    if dims.len() != strides.len() || offset > 1 << 48 {
        return Err(wrong());
    }
    Ok(Thing::Tensor(Box::new(Told { storage: storage.clone(), kind: *kind, offset, dims })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes: &[u8]) -> Result<Vec<(String, Told)>, String> {
        Machine::new(bytes).run()
    }

    #[test]
    fn a_file_that_would_call_something_is_refused_by_its_name() {
        // `os.system("...")`, in protocol 2 and by STACK_GLOBAL.
        let told = run(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap_err();
        assert!(told.contains("`os system`"), "{told}");
        let told = run(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.").unwrap_err();
        assert!(told.contains("`builtins eval`"), "{told}");
    }

    #[test]
    fn torn_and_senseless_pickles_are_errors() {
        for bytes in [
            &b""[..],
            b".",
            b"\x80",
            b"X\xff\xff\xff\xff",
            b"t",
            b"R",
            b"h\x01",
            b"}X\x01\x00\x00\x00aK\x01s.",
            b"\x80\x02NR.",
            b"\x8a\xff",
        ] {
            assert!(run(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        proptest::proptest!(|(bytes: Vec<u8>)| drop(run(&bytes)));
    }
}
