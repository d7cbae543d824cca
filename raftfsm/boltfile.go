package raftfsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt maps its file and believes what it finds there. A file that was cut short
// is a SIGBUS, also in a goroutine of its own; a page that names itself as its child
// is a loop without end; a length that is too large is all memory. So the file is
// read here with plain reads first, every page that can be reached and the list of
// free ones, and bbolt gets to see only what is whole (law 9).
//
// bbolt has a checksum on its two meta pages only. What the entries hold is proved
// by the checksums of store.

// The format of bbolt's file (go.etcd.io/bbolt internal/common), little-endian on
// every machine that this is built for.
const (
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	pageHeaderLen   = 16
	pageElementLen  = 16
	metaLen         = 64
	bucketHeaderLen = 16

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	pageFreelist = 0x10

	leafBucket = 0x01 // flag of an element that is a bucket

	boltDepthMax    = 64       // pages from the root to an entry
	boltRunMaxBytes = 64 << 20 // one page with its overflow; an entry of Raft is far below
)

// errBoltEmpty says that the file holds nothing: bbolt makes a new one of it.
var errBoltEmpty = errors.New("the file is empty")

// boltFile is a bbolt file while it is proved.
type boltFile struct {
	f        *os.File
	pageSize int64
	pages    uint64 // the high-water mark: pages from here on are not in use
	used     []bool // pages that were reached, or are free
}

// boltMeta is one of the two meta pages.
type boltMeta struct {
	pageSize              uint32
	root, freelist, pages uint64
	txid                  uint64
}

// proveBolt returns nil when bbolt can open and read the whole file. Memory: one
// byte per page, and one page at a time.
func proveBolt(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = proveOpenBolt(f)
	return errors.Join(err, f.Close())
}

func proveOpenBolt(f *os.File) error {
	st, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("it is no file: %s", st.Mode())
	case st.Size() == 0:
		return errBoltEmpty
	}
	m, err := readBoltMeta(f, st.Size())
	if err != nil {
		return err
	}
	b := &boltFile{f: f, pageSize: int64(m.pageSize), pages: m.pages}
	if have := uint64(st.Size()) / uint64(b.pageSize); m.pages > have {
		return fmt.Errorf("it was cut short: %d bytes, and %d pages of %d bytes are in use", st.Size(), m.pages, m.pageSize)
	}
	b.used = make([]bool, m.pages)
	if err := b.tree(m.root, 0, nil); err != nil {
		return err
	}
	return b.freelist(m.freelist)
}

// readBoltMeta returns the newer of the two meta pages. One of them may be torn: a
// crash while it was written. bbolt takes the other one then, and what that one
// lacks was not promised yet, or is remembered (see memory).
func readBoltMeta(f *os.File, size int64) (*boltMeta, error) {
	first, err := metaAt(f, 0)
	if err != nil && !errors.Is(err, errNoMeta) {
		return nil, err
	}
	best := first
	for shift := 10; shift <= 16; shift++ {
		pageSize := int64(1) << shift
		if first != nil && int64(first.pageSize) != pageSize || pageSize+pageHeaderLen+metaLen > size {
			continue
		}
		second, err := metaAt(f, pageSize)
		if err != nil && !errors.Is(err, errNoMeta) {
			return nil, err
		}
		if second != nil && int64(second.pageSize) == pageSize && (best == nil || second.txid > best.txid) {
			best = second
		}
	}
	switch {
	case best == nil:
		return nil, errNoMeta
	case best.pageSize < 1<<10 || best.pageSize > 1<<16 || best.pageSize&(best.pageSize-1) != 0:
		return nil, fmt.Errorf("pages of %d bytes", best.pageSize)
	}
	return best, nil
}

var errNoMeta = errors.New("neither of its two heads matches its checksum")

func metaAt(f *os.File, at int64) (*boltMeta, error) {
	b := make([]byte, pageHeaderLen+metaLen)
	if _, err := f.ReadAt(b, at); errors.Is(err, io.EOF) {
		return nil, errNoMeta
	} else if err != nil {
		return nil, err
	}
	flags, m := binary.LittleEndian.Uint16(b[8:]), b[pageHeaderLen:]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaLen-8]) // never fails (hash.Hash)
	if flags != pageMeta || binary.LittleEndian.Uint32(m) != boltMagic || binary.LittleEndian.Uint32(m[4:]) != boltVersion ||
		binary.LittleEndian.Uint64(m[metaLen-8:]) != sum.Sum64() {
		return nil, errNoMeta
	}
	u := func(at int) uint64 { return binary.LittleEndian.Uint64(m[at:]) }
	return &boltMeta{pageSize: binary.LittleEndian.Uint32(m[8:]), root: u(16), freelist: u(32), pages: u(40), txid: u(48)}, nil
}

// page is one page with its overflow.
type page struct {
	id    uint64
	flags uint16
	count int
	bytes []byte // the header included
}

// page reads a page and marks it: a page has one place.
func (b *boltFile) page(id uint64) (*page, error) {
	if id < 2 || id >= b.pages {
		return nil, fmt.Errorf("page %d of %d", id, b.pages)
	}
	head := make([]byte, pageHeaderLen)
	if _, err := b.f.ReadAt(head, int64(id)*b.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	run := uint64(binary.LittleEndian.Uint32(head[12:])) + 1
	switch {
	case binary.LittleEndian.Uint64(head) != id:
		return nil, fmt.Errorf("page %d says that it is page %d", id, binary.LittleEndian.Uint64(head))
	case run > b.pages-id || run > boltRunMaxBytes/uint64(b.pageSize):
		return nil, fmt.Errorf("page %d says that it has %d pages", id, run)
	}
	for i := id; i < id+run; i++ {
		if err := b.mark(i); err != nil {
			return nil, err
		}
	}
	p := &page{id: id, flags: binary.LittleEndian.Uint16(head[8:]), count: int(binary.LittleEndian.Uint16(head[10:])), bytes: make([]byte, run*uint64(b.pageSize))}
	if _, err := b.f.ReadAt(p.bytes, int64(id)*b.pageSize); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return p, nil
}

func (b *boltFile) mark(id uint64) error {
	if id < 2 || id >= b.pages {
		return fmt.Errorf("page %d of %d", id, b.pages)
	}
	if b.used[id] {
		return fmt.Errorf("page %d is used twice", id)
	}
	b.used[id] = true
	return nil
}

// tree proves a page and all below it; from is the least key that it may hold.
func (b *boltFile) tree(id uint64, depth int, from []byte) error {
	p, err := b.page(id)
	switch {
	case err != nil:
		return err
	case depth > boltDepthMax:
		return fmt.Errorf("page %d is more than %d pages deep", id, boltDepthMax)
	case p.flags == pageLeaf:
		return b.leaf(p.bytes, p, depth, from)
	case p.flags == pageBranch && p.count > 0:
		return b.branch(p, depth, from)
	}
	return fmt.Errorf("page %d is neither a branch nor a leaf (flags %#x, %d elements)", id, p.flags, p.count)
}

func (b *boltFile) branch(p *page, depth int, from []byte) error {
	for i := range p.count {
		at := pageHeaderLen + i*pageElementLen
		if at+pageElementLen > len(p.bytes) {
			return fmt.Errorf("page %d has no room for %d elements", p.id, p.count)
		}
		e := p.bytes[at:]
		key, err := part(p, at, binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]))
		if err != nil {
			return err
		}
		if bytes.Compare(key, from) < 0 || i > 0 && bytes.Equal(key, from) {
			return fmt.Errorf("page %d has keys out of order", p.id)
		}
		from = bytes.Clone(key)
		if err := b.tree(binary.LittleEndian.Uint64(e[8:]), depth+1, from); err != nil {
			return err
		}
	}
	return nil
}

// leaf proves a leaf page, or the one inside a small bucket.
func (b *boltFile) leaf(body []byte, p *page, depth int, from []byte) error {
	for i := range p.count {
		at := pageHeaderLen + i*pageElementLen
		if at+pageElementLen > len(body) {
			return fmt.Errorf("page %d has no room for %d elements", p.id, p.count)
		}
		e := body[at:]
		flags, pos := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
		klen, vlen := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		key, err := part(p, at, pos, klen)
		if err != nil {
			return err
		}
		value, err := part(p, at, pos+klen, vlen)
		switch {
		case err != nil || uint64(pos)+uint64(klen) > uint64(len(body)):
			return fmt.Errorf("page %d: a value lies outside of it", p.id)
		case bytes.Compare(key, from) < 0 || i > 0 && bytes.Equal(key, from):
			return fmt.Errorf("page %d has keys out of order", p.id)
		case flags&^leafBucket != 0:
			return fmt.Errorf("page %d has an element of kind %#x", p.id, flags)
		}
		from = key
		if flags == leafBucket {
			if err := b.bucket(p.id, value, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket proves what a bucket holds, in a page of its own or inside the value.
func (b *boltFile) bucket(in uint64, value []byte, depth int) error {
	if len(value) < bucketHeaderLen {
		return fmt.Errorf("page %d has a bucket of %d bytes", in, len(value))
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return b.tree(root, depth+1, nil)
	}
	body := value[bucketHeaderLen:]
	if len(body) < pageHeaderLen || binary.LittleEndian.Uint16(body[8:]) != pageLeaf || depth > boltDepthMax {
		return fmt.Errorf("page %d has a bucket without a leaf", in)
	}
	inner := &page{id: in, flags: pageLeaf, count: int(binary.LittleEndian.Uint16(body[10:])), bytes: body}
	return b.leaf(body, inner, depth+1, nil)
}

// part returns the bytes at pos behind the element at the offset at.
func part(p *page, at int, pos, n uint32) ([]byte, error) {
	begin := uint64(at) + uint64(pos)
	if end := begin + uint64(n); begin < uint64(pageHeaderLen+p.count*pageElementLen) || end > uint64(len(p.bytes)) {
		return nil, fmt.Errorf("page %d: an element lies outside of it", p.id)
	}
	return p.bytes[begin : begin+uint64(n)], nil
}

// freelist proves the list of free pages: none of them is in use. Without a list
// bbolt would search for them in a goroutine that nothing guards.
func (b *boltFile) freelist(id uint64) error {
	p, err := b.page(id)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	if p.flags != pageFreelist {
		return fmt.Errorf("page %d is no list of free pages (flags %#x)", id, p.flags)
	}
	count, ids := uint64(p.count), p.bytes[pageHeaderLen:]
	if p.count == 0xFFFF { // it stands before the list
		count, ids = binary.LittleEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return fmt.Errorf("page %d has no room for %d free pages", id, count)
	}
	for i := range count {
		if err := b.mark(binary.LittleEndian.Uint64(ids[i*8:])); err != nil {
			return fmt.Errorf("list of free pages: %w", err)
		}
	}
	return nil
}
