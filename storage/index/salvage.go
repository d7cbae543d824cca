package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"mailnode/storage/disk"
)

// Salvage reads what can still be read of a damaged index. What cannot be read is known as
// spans of keys, so that what lies elsewhere is known to be whole.
type Salvage struct {
	Why []string // what cannot be read, and why

	db   *pebble.DB // nil: its files do not fit together any more
	fs   vfs.FS
	dir  string
	gone []Span
	all  bool // no key is known to be whole: a log or the list of files is damaged, or all of it is old
}

// Span is the keys from Lower to before Upper; nil is no bound.
type Span struct{ Lower, Upper []byte }

// Lose notes that a part cannot be read.
func (x *Salvage) Lose(sp Span, format string, args ...any) {
	x.gone = append(x.gone, sp)
	x.Why = append(x.Why, fmt.Sprintf(format, args...))
}

// LoseAll notes that no part can be trusted to be whole, and why.
func (x *Salvage) LoseAll(format string, args ...any) {
	x.all = true
	x.Why = append(x.Why, fmt.Sprintf(format, args...))
}

// Whole reports whether nothing is missing.
func (x *Salvage) Whole() bool { return !x.all && len(x.gone) == 0 }

// Sound reports whether no key of a span can be missing or old.
func (x *Salvage) Sound(sp Span) bool {
	return !x.all && !slices.ContainsFunc(x.gone, func(g Span) bool {
		return (g.Upper == nil || bytes.Compare(sp.Lower, g.Upper) < 0) && (sp.Upper == nil || bytes.Compare(g.Lower, sp.Upper) < 0)
	})
}

// OpenSalvage opens an old index for reading alone. It does not wait for one that
// hangs once latch has tripped.
func OpenSalvage(fs vfs.FS, dir string, latch *disk.Latch) *Salvage {
	x := &Salvage{fs: fs, dir: dir}
	names, err := x.fs.List(dir)
	if err != nil || len(names) == 0 {
		x.LoseAll("there is no old index")
		return x
	}
	cut := x.provedLogs(names)
	if state, err := checkManifest(x.fs, dir); err != nil || state != manifestSound {
		x.LoseAll("the list of the old index's files is damaged")
		return x
	}
	oldest := uint64(0)
	if manifest, err := manifestIn(x.fs, dir); err == nil && manifest != "" {
		oldest, _, _ = oldestLog(x.fs, manifest)
	}
	if !slices.ContainsFunc(names, func(name string) bool {
		number, _, ok := wal.ParseLogFilename(name)
		return ok && (oldest == 0 || uint64(number) == oldest) // 0: no log was given up yet
	}) {
		x.LoseAll("write-ahead log %06d is not there", oldest)
	}
	o := readOnly(&cutFS{FS: fs, cut: cut}, quietLogger{})
	o.EventListener = &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}}
	err = Guarded(latch, func() (err error) { x.db, err = pebble.Open(dir, o); return err })
	if err != nil {
		x.db = nil
		x.LoseAll("the old index cannot be opened: %v", err)
	}
	return x
}

// Close closes it.
func (x *Salvage) Close() {
	if x.db != nil {
		x.db.Close()
	}
}

type quietLogger struct{}

func (quietLogger) Infof(string, ...any)  {}
func (quietLogger) Errorf(string, ...any) {}
func (quietLogger) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...)) // Guarded takes it
}

// logs lists the write-ahead logs in their order.
func logs(names []string) []string {
	out := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasSuffix(n, ".log") })
	slices.SortFunc(out, func(a, b string) int {
		x, _, _ := wal.ParseLogFilename(a)
		y, _, _ := wal.ParseLogFilename(b)
		return int(x) - int(y)
	})
	return out
}

// provedLogs reads all write-ahead logs and says up to where those are sound that
// are not sound to their end.
func (x *Salvage) provedLogs(names []string) map[string]int64 {
	cut := map[string]int64{}
	all := logs(names)
	for i, name := range all {
		end, err := x.readLog(name, func([]byte) error { return nil })
		if err == nil || i == len(all)-1 && errors.Is(err, record.ErrUnexpectedEOF) && x.endsAt(name, end) {
			continue
		}
		cut[name] = end
		x.LoseAll("write-ahead log %s is damaged from byte %d on: %v", name, end, err)
	}
	return cut
}

// endsAt reports whether a log ends where its last sound record does: nothing lies
// behind it but zeros or what an older log, whose file it was given, has left. A
// chunk of its own there is damage or what a power loss cut off: nobody can tell,
// so it counts as damage.
func (x *Salvage) endsAt(name string, end int64) bool {
	number, _, _ := wal.ParseLogFilename(name)
	f, err := x.fs.Open(x.fs.PathJoin(x.dir, name))
	if err != nil {
		return false
	}
	defer f.Close()
	for range 2 { // the rest of a block may be too short for a chunk
		left := blockBytes - end%blockBytes
		b := make([]byte, min(left, logHeaderBytes))
		n, err := f.ReadAt(b, end)
		if err != nil && err != io.EOF {
			return false
		}
		b = b[:n]
		if !allZero(b) && !isOlderLogs(b, uint32(number)) {
			return false
		}
		if left >= logHeaderBytes {
			return true
		}
		end += left
	}
	return true
}

// newLogReader finds the type of a log's number, which has no exported name.
func newLogReader[N ~uint64](make func(io.Reader, N) *record.Reader, r io.Reader, number wal.NumWAL) *record.Reader {
	return make(r, N(number))
}

// readLog calls fn for the batches of a log, and returns where the last one ends.
func (x *Salvage) readLog(name string, fn func(batch []byte) error) (end int64, err error) {
	number, _, ok := wal.ParseLogFilename(name)
	if !ok {
		return 0, nil
	}
	f, err := x.fs.Open(x.fs.PathJoin(x.dir, name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := newLogReader(record.NewReader, f, number)
	for {
		end = r.Offset()
		rec, err := r.Next()
		var batch []byte
		if err == nil {
			batch, err = io.ReadAll(rec)
		}
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		if err := fn(batch); err != nil {
			return end, err
		}
	}
}

// Opened reports whether its files fit together, so that records can be read by key.
func (x *Salvage) Opened() bool { return x.db != nil }

// Get reads one record. The error says that it lies in what is damaged.
func (x *Salvage) Get(key []byte) (value []byte, found bool, err error) {
	if x.db == nil {
		return nil, false, nil
	}
	defer func() { // what is damaged may lead its reader anywhere
		if p := recover(); p != nil {
			value, found, err = nil, false, fmt.Errorf("%v", p)
		}
	}()
	if value, found, err = Get(x.db, key); err != nil {
		err = FirstLine(err)
	}
	return value, found, err
}

// Each calls fn for what can be read of a span, in the order of keys. what names the
// records that lie there, for Why.
func (x *Salvage) Each(sp Span, what string, fn func(key, value []byte) error) error {
	if x.db == nil {
		return nil
	}
	from := sp.Lower
	for from != nil {
		last, broken, err := x.stretch(Span{Lower: from, Upper: sp.Upper}, fn)
		if err != nil || broken == nil {
			return err
		}
		if last == nil {
			last = from
		} else {
			last = append(last, 0)
		}
		next := x.readableFrom(last, sp.Upper)
		x.Lose(Span{Lower: last, Upper: next}, "%s from %q to before %q cannot be read: %v", what, last, next, FirstLine(broken))
		from = next
		if next == nil || bytes.Compare(next, sp.Upper) >= 0 {
			return nil
		}
	}
	return nil
}

// stretch reads until the end of the span, or damage; err is fn's.
func (x *Salvage) stretch(sp Span, fn func(key, value []byte) error) (last []byte, broken, err error) {
	defer func() {
		if p := recover(); p != nil {
			broken = fmt.Errorf("%v", p)
		}
	}()
	it, broken := x.db.NewIter(&pebble.IterOptions{LowerBound: sp.Lower, UpperBound: sp.Upper})
	if broken != nil {
		return nil, broken, nil
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, broken := it.ValueAndErr()
		if broken != nil {
			return last, broken, nil
		}
		last = append(last[:0], it.Key()...)
		if err := fn(it.Key(), v); err != nil {
			return last, nil, err
		}
	}
	return last, it.Error(), nil
}

// keyWidth is how many bytes of keys readableFrom counts in: a message's key and
// some. Longer ones (names, addresses) differ within these or are lost together.
const keyWidth = 24

// readableFrom finds a key behind damage from which on the index can be read
// again: ever further steps from after, each 256 times the last, then halves.
func (x *Salvage) readableFrom(after, end []byte) []byte {
	lo, limit := asNumber(after), asNumber(end)
	hi := new(big.Int)
	for step := big.NewInt(1); ; step.Lsh(step, 8) {
		if hi.Add(lo, step); hi.Cmp(limit) >= 0 {
			return end
		}
		if x.readable(asKey(hi), end) {
			break
		}
		lo.Set(hi)
	}
	for {
		mid := new(big.Int).Add(lo, hi)
		if mid.Rsh(mid, 1); mid.Cmp(lo) == 0 {
			return asKey(hi)
		}
		if x.readable(asKey(mid), end) {
			hi = mid
		} else {
			lo = mid
		}
	}
}

// readable reports whether the first record at or behind a key can be read.
func (x *Salvage) readable(k, end []byte) bool {
	found := errors.New("found")
	_, broken, _ := x.stretch(Span{Lower: k, Upper: end}, func(_, _ []byte) error { return found })
	return broken == nil
}

func asNumber(k []byte) *big.Int {
	b := make([]byte, keyWidth)
	copy(b, k)
	return new(big.Int).SetBytes(b)
}

func asKey(n *big.Int) []byte { return n.FillBytes(make([]byte, keyWidth)) }

// cutFS shows logs only up to where they are sound.
type cutFS struct {
	vfs.FS
	cut map[string]int64
}

// Open implements vfs.FS.
func (c *cutFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, opts...)
	if end, cut := c.cut[c.PathBase(name)]; cut && err == nil {
		return &cutFile{File: f, end: end}, nil
	}
	return f, err
}

// Unwrap implements vfs.FS.
func (c *cutFS) Unwrap() vfs.FS { return c.FS }

type cutFile struct {
	vfs.File
	at, end int64
}

func (f *cutFile) Read(b []byte) (int, error) {
	if f.at >= f.end {
		return 0, io.EOF
	}
	n, err := f.File.Read(b[:min(int64(len(b)), f.end-f.at)])
	f.at += int64(n)
	return n, err
}

func (f *cutFile) ReadAt(b []byte, off int64) (int, error) {
	if off >= f.end {
		return 0, io.EOF
	}
	n := min(int64(len(b)), f.end-off)
	got, err := f.File.ReadAt(b[:n], off)
	if err == nil && int64(len(b)) > n {
		err = io.EOF
	}
	return got, err
}
