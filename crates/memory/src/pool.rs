//! The pool: one block of memory from which every activation, gradient and scratch of a step is cut.
//!
//! Allocation is best fit over a list of free ranges that merge when neighbours are freed, in whole lines of the device's
//! kind. The same list runs on every device; on [`Device::Meta`] there is just no memory behind it. So the high-water mark of a
//! step on `Meta` *is* the size of the block that the step on `Cpu` needs, to the byte, and nothing is allocated from
//! the system once the block is there.
//!
//! **Invariant:** live buffers never overlap; each is owned by one [`Buffer`], which returns its range when dropped.
#![allow(unsafe_code)]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    cell::{Cell, RefCell},
    ptr::NonNull,
    rc::Rc,
};

use bytemuck::Pod;

use crate::{Device, Dtype, Kind, Reals, RealsMut};

/// Aligned to huge pages, so that the kernel may back the block with them.
const BLOCK_ALIGN: usize = 2 << 20;

/// A handle to one block of memory; cheap to clone, not shared between threads (each rank has its own).
#[derive(Clone)]
pub struct Pool(Rc<RefCell<Arena>>);

/// There is no free range that is long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the step needs {wanted_bytes} bytes more, and {live_bytes} of {capacity_bytes} bytes are in use")]
pub struct PoolFull {
    pub wanted_bytes: u64,
    pub live_bytes: u64,
    pub capacity_bytes: u64,
}

/// What a pool has handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// In use now.
    pub live_bytes: u64,
    /// Most ever in use at one time.
    pub peak_live_bytes: u64,
    /// The end of the highest range ever handed out: live bytes and the holes between them.
    pub high_water_bytes: u64,
}

impl Pool {
    /// A pool of `capacity_bytes`. On `Cpu` the block is taken at once, but the system backs it only where it is touched.
    #[must_use]
    pub fn new(device: Device, capacity_bytes: u64) -> Self {
        Self(Rc::new(RefCell::new(Arena::new(device, capacity_bytes as usize))))
    }

    /// A pool on `Meta`, as a CPU would have it, where there is no end of memory.
    #[must_use]
    pub fn meta() -> Self {
        Self::planned(Kind::Cpu)
    }

    /// The same as a device of that kind would have it.
    #[must_use]
    pub fn planned(kind: Kind) -> Self {
        Self::new(Device::Meta(kind), 1 << 62)
    }

    #[must_use]
    pub fn device(&self) -> Device {
        self.0.borrow().device
    }

    /// How many bytes it can hold in all; no end of them on `Meta`.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.0.borrow().capacity_bytes as u64
    }

    #[must_use]
    pub fn usage(&self) -> PoolUse {
        self.0.borrow().usage
    }

    /// Start the high-water mark anew; to be called between steps, when nothing is live.
    pub fn reset_peaks(&self) {
        let mut arena = self.0.borrow_mut();
        let live_bytes = arena.usage.live_bytes;
        arena.usage = PoolUse { live_bytes, peak_live_bytes: live_bytes, high_water_bytes: live_bytes };
    }

    /// A buffer of `elements` of that type, with whatever was there before.
    /// # Errors
    /// When no free range is long enough.
    pub fn take(&self, dtype: Dtype, elements: usize) -> Result<Buffer, PoolFull> {
        let mut arena = self.0.borrow_mut();
        let (offset, bytes) = arena.take(dtype.bytes() * elements)?;
        let data = arena.memory.as_ref().map_or(NonNull::dangling(), |block| {
            // SAFETY: `take` returned a range inside the block, so the offset stays within one allocation.
            unsafe { block.start.add(offset) }.cast()
        });
        let is_here = arena.memory.is_some();
        drop(arena);
        Ok(Buffer { pool: self.clone(), offset, bytes, dtype, elements, is_here, data, is_kept: Cell::new(false) })
    }
}

/// A range of the pool, owned; goes back when dropped.
pub struct Buffer {
    pool: Pool,
    offset: usize,
    bytes: usize,
    dtype: Dtype,
    elements: usize,
    /// False on `Meta`, where slices are empty.
    is_here: bool,
    data: NonNull<f32>,
    is_kept: Cell<bool>,
}

impl Buffer {
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Of its elements, without what fills its last line.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.dtype.bytes() * self.elements) as u64
    }

    /// It is kept from now on for a later pass; whether it was before.
    pub fn keep(&self) -> bool {
        self.is_kept.replace(true)
    }

    /// Its elements, as a type of their size; none on `Meta`.
    fn elements_as<T: Pod>(&self) -> &[T] {
        assert_eq!(size_of::<T>(), self.dtype.bytes(), "a buffer of {:?} is read as another type", self.dtype);
        // SAFETY: `data` points to so many initialised elements (the block was zeroed) that only this buffer owns.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), if self.is_here { self.elements } else { 0 }) }
    }

    fn elements_as_mut<T: Pod>(&mut self) -> &mut [T] {
        assert_eq!(size_of::<T>(), self.dtype.bytes(), "a buffer of {:?} is written as another type", self.dtype);
        // SAFETY: as in `elements_as`, and `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr().cast(), if self.is_here { self.elements } else { 0 }) }
    }

    /// The numbers in the type in which they are stored; empty on `Meta`.
    #[must_use]
    pub fn reals(&self) -> Reals<'_> {
        match self.dtype {
            Dtype::Bf16 => Reals::Bf16(self.elements_as()),
            Dtype::F32 | Dtype::U32 => Reals::F32(self.elements_as()),
        }
    }

    #[must_use]
    pub fn reals_mut(&mut self) -> RealsMut<'_> {
        match self.dtype {
            Dtype::Bf16 => RealsMut::Bf16(self.elements_as_mut()),
            Dtype::F32 | Dtype::U32 => RealsMut::F32(self.elements_as_mut()),
        }
    }

    /// The numbers; empty on `Meta`.
    /// # Panics
    /// When they are stored in 16 bits, as for all below.
    #[must_use]
    pub fn f32s(&self) -> &[f32] {
        self.elements_as()
    }

    #[must_use]
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        self.elements_as_mut()
    }

    /// The same bytes as whole numbers (tokens); empty on `Meta`.
    #[must_use]
    pub fn u32s(&self) -> &[u32] {
        self.elements_as()
    }

    #[must_use]
    pub fn u32s_mut(&mut self) -> &mut [u32] {
        self.elements_as_mut()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.0.borrow_mut().give(self.offset, self.bytes);
    }
}

/// The block itself, freed with the last handle.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

impl Block {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), BLOCK_ALIGN).expect("a pool is smaller than memory");
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this layout and is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

struct Arena {
    device: Device,
    memory: Option<Block>,
    capacity_bytes: usize,
    /// Offset and length of each free range, in order; no two touch. There are few, so that a sorted list beats a tree.
    free: Vec<(usize, usize)>,
    /// Length and offset of each but the one at the end, in order.
    holes: Vec<(usize, usize)>,
    usage: PoolUse,
}

impl Arena {
    fn new(device: Device, capacity_bytes: usize) -> Self {
        let capacity_bytes = capacity_bytes.next_multiple_of(device.kind().line_bytes());
        Self {
            device,
            memory: device.is_real().then(|| Block::new(capacity_bytes)),
            capacity_bytes,
            free: vec![(0, capacity_bytes)],
            holes: Vec::new(),
            usage: PoolUse { live_bytes: 0, peak_live_bytes: 0, high_water_bytes: 0 },
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(usize, usize), PoolFull> {
        let bytes = bytes.max(1).next_multiple_of(self.device.kind().line_bytes());
        // The range at the end counts as endless, as it is on `Meta`: it is taken when no hole is long enough.
        let hole = self.holes.get(self.holes.partition_point(|hole| *hole < (bytes, 0))).map(|(len, offset)| (*offset, *len));
        let Some((offset, len)) = hole.or_else(|| self.free.last().copied().filter(|(_, len)| *len >= bytes)) else {
            return Err(PoolFull {
                wanted_bytes: bytes as u64,
                live_bytes: self.usage.live_bytes,
                capacity_bytes: self.capacity_bytes as u64,
            });
        };
        let at = self.at(offset);
        self.lose(offset, len);
        if len > bytes {
            self.free[at] = (offset + bytes, len - bytes);
            self.gain(offset + bytes, len - bytes);
        } else {
            self.free.remove(at);
        }
        let usage = &mut self.usage;
        usage.live_bytes += bytes as u64;
        usage.peak_live_bytes = usage.peak_live_bytes.max(usage.live_bytes);
        usage.high_water_bytes = usage.high_water_bytes.max((offset + bytes) as u64);
        Ok((offset, bytes))
    }

    fn give(&mut self, offset: usize, bytes: usize) {
        self.usage.live_bytes -= bytes as u64;
        let at = self.at(offset);
        let before = at.checked_sub(1).map(|at| self.free[at]).filter(|(start, len)| start + len == offset);
        let after = self.free.get(at).copied().filter(|(start, _)| offset + bytes == *start);
        for (start, len) in before.into_iter().chain(after) {
            self.lose(start, len);
        }
        let start = before.map_or(offset, |(start, _)| start);
        let end = after.map_or(offset + bytes, |(start, len)| start + len);
        let merged = at - usize::from(before.is_some())..at + usize::from(after.is_some());
        self.free.splice(merged, [(start, end - start)]);
        self.gain(start, end - start);
    }

    /// The place of the first free range at or after `offset`.
    fn at(&self, offset: usize) -> usize {
        self.free.partition_point(|(start, _)| *start < offset)
    }

    /// A range joins the holes, unless it is the end.
    fn gain(&mut self, offset: usize, len: usize) {
        if offset + len != self.capacity_bytes {
            self.holes.insert(self.holes.partition_point(|hole| *hole < (len, offset)), (len, offset));
        }
    }

    fn lose(&mut self, offset: usize, len: usize) {
        if let Ok(at) = self.holes.binary_search(&(len, offset)) {
            self.holes.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn both_devices_hand_out_the_same_ranges() {
        let (cpu, meta) = (Pool::new(Device::Cpu, 1 << 20), Pool::meta());
        let mut live = Vec::new();
        for i in 0..200_usize {
            let elements = (i * 7919) % 301;
            let pair = (cpu.take(Dtype::F32, elements).unwrap(), meta.take(Dtype::F32, elements).unwrap());
            assert_eq!(pair.0.offset, pair.1.offset);
            live.push(pair);
            if i % 3 == 0 {
                live.swap_remove(i % live.len());
            }
        }
        assert_eq!(cpu.usage(), meta.usage());
        drop(live);
        assert_eq!(cpu.usage().live_bytes, 0);
        assert_eq!(cpu.0.borrow().free.len(), 1, "freed neighbours merge into one range");
    }

    #[test]
    fn the_kind_of_a_device_says_what_a_buffer_takes() {
        for (kind, bytes) in [(Kind::Cpu, 192 + 128), (Kind::Gpu, 256 + 256)] {
            let pool = Pool::planned(kind);
            let _held = (pool.take(Dtype::F32, 40).unwrap(), pool.take(Dtype::Bf16, 40).unwrap());
            assert_eq!(pool.usage().live_bytes, bytes, "{kind:?}");
        }
    }

    #[test]
    fn numbers_of_16_bits_lie_in_half_the_bytes_and_are_read_as_nothing_else() {
        let pool = Pool::new(Device::Cpu, 256);
        let mut buffer = pool.take(Dtype::Bf16, 33).unwrap();
        buffer.reals_mut().of::<bf16>().fill(bf16::from_f32(1.5));
        assert_eq!(pool.usage().live_bytes, 128);
        assert!(buffer.reals().of::<bf16>().iter().all(|x| x.to_f32() == 1.5) && buffer.bytes() == 66);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| buffer.f32s().len())).is_err());
    }

    #[test]
    fn a_full_pool_says_how_much_was_wanted() {
        let pool = Pool::new(Device::Cpu, 128);
        let _held = pool.take(Dtype::F32, 16).unwrap();
        let error = pool.take(Dtype::F32, 17).err().unwrap().to_string();
        assert!(error.contains("128"), "{error}");
    }

    #[test]
    fn live_buffers_do_not_overlap() {
        let pool = Pool::new(Device::Cpu, 1 << 16);
        let mut buffers: Vec<_> = (1..20).map(|n| pool.take(Dtype::F32, n).unwrap()).collect();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            buffer.f32s_mut().fill(i as f32);
        }
        for (i, buffer) in buffers.iter().enumerate() {
            assert!(buffer.f32s().iter().all(|v| *v == i as f32));
        }
    }
}
