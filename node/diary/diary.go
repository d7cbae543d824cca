// Package diary is what a node remembers of happenings, for the people who ask
// afterwards what was: conditions that came and went, proposals, slots that were not
// served, orders, notes. It decides nothing.
//
// Each node keeps its own, on its own disk and bounded; a report (report.go) is made
// of those that can be reached. Raft does not carry it: notes are long texts, and
// what happens while there is no quorum is what people ask about (law 10). Order
// within a node is that of its own count; the wall clock is only shown (law 11).
package diary

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/slot"
)

// Kind tells entries apart.
type Kind string

// The kinds of entries.
const (
	Node      Kind = "node"      // this node started, is stopping, has stopped; Text says which
	Began     Kind = "began"     // a condition: Subject and About name it, For is how old it is already
	Ended     Kind = "ended"     // the same, For is how long it held
	Proposed  Kind = "proposed"  // Subject is the proposal, Text what became of it
	Served    Kind = "served"    // a slot is served again: For is how long it was not, at most
	Protected Kind = "protected" // a slot that was served again is protected again
	Order     Kind = "order"     // an operator's; By gave it
	Note      Kind = "note"      // a person's words
)

// Entry is one happening.
type Entry struct {
	Seq     uint64        `json:"seq"` // of the node, without end; of a note: of the node on which it was written
	Kind    Kind          `json:"kind"`
	Wall    time.Time     `json:"wall"` // shown only (law 11)
	Subject string        `json:"subject,omitempty"`
	About   string        `json:"about,omitempty"`
	Slot    *slot.ID      `json:"slot,omitempty"`
	Epoch   slot.Epoch    `json:"epoch,omitempty"`
	At      slot.NodeName `json:"at,omitempty"` // of Served the master, of Note and Order the node that was told
	By      string        `json:"by,omitempty"`
	Text    string        `json:"text,omitempty"`
	ForMs   int64         `json:"for_ms,omitempty"`
	LagMs   *int64        `json:"lag_ms,omitempty"` // of Served before, of Protected after; null: not known
	// CutOff says that the node knew no Raft leader: what it did not hear may have
	// been well.
	CutOff bool `json:"cut_off,omitempty"`

	mono time.Duration // of this process; 0 of an earlier one
}

// For is how long it was.
func (e Entry) For() time.Duration { return time.Duration(e.ForMs) * time.Millisecond }

// Limits.
const (
	TextMax    = 2000      // bytes of a text; longer ones are cut
	fileMax    = 512 << 10 // bytes of a file, then the next; the one before is kept
	pendingMax = 2000      // entries that wait for a disk that takes none
	keptMax    = 10000     // entries in memory: more than two files hold
)

// Diary is one node's. Safe for concurrent use. What is added is there at once for
// whoever reads, and on the disk after Write: a disk that hangs or is full holds up
// nobody else.
type Diary struct {
	fs    vfs.FS
	dir   string
	clock storage.Clock

	mu      sync.Mutex // guards what follows; never held while the disk is waited for
	entries []Entry
	pending []Entry
	lost    int // entries that found no room among the pending
	seq     uint64

	writing sync.Mutex // guards the file
	file    vfs.File
	size    int64
}

// Open reads a diary, if there is one. Lines that are damaged are left out;
// how many they were is an entry.
func Open(fs vfs.FS, dir string, clock storage.Clock) (*Diary, error) {
	d := &Diary{fs: fs, dir: dir, clock: clock}
	bad := 0
	for _, name := range []string{earlierName, currentName} {
		n, err := d.load(fs.PathJoin(dir, name))
		if err != nil {
			return d, fmt.Errorf("read diary %q: %w", dir, err)
		}
		bad += n
	}
	if bad > 0 {
		d.Add(Entry{Kind: Node, Text: fmt.Sprintf("%d damaged lines of this node's diary were left out", bad)})
	}
	return d, nil
}

const (
	currentName = "current"
	earlierName = "earlier"
	// cutOff ends what a crash or an error may have left of a line, so that it is
	// neither damage nor a part of the next one.
	cutOff = "~\n"
)

// load takes in the lines of a file, and returns how many are damaged. A last line
// without its end was cut off by a crash.
func (d *Diary) load(path string) (bad int, err error) {
	f, err := d.fs.Open(path)
	if oserror.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*fileMax))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		e, ok := decode(line)
		switch {
		case ok && e.Seq > d.seq:
			d.entries, d.seq = append(d.entries, e), e.Seq
		case !ok && strings.HasSuffix(line, "\n") && !strings.HasSuffix(line, cutOff):
			bad++
		}
	}
	return bad, nil
}

// encode makes a line: JSON, and its CRC-32C (law 6).
func encode(e Entry) (string, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x %s\n", sum(b), b), nil
}

func decode(line string) (e Entry, ok bool) {
	crc, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if crc != fmt.Sprintf("%08x", sum([]byte(text))) {
		return e, false
	}
	return e, json.Unmarshal([]byte(text), &e) == nil
}

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Add notes a happening of this moment, and returns it with its number and time.
func (d *Diary) Add(e Entry) Entry {
	if len(e.Text) > TextMax {
		e.Text = strings.ToValidUTF8(e.Text[:TextMax], "") + "…"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	e.Seq, e.Wall, e.mono = d.seq, d.clock.Wall().UTC().Truncate(time.Millisecond), max(1, d.clock.Mono())
	d.entries = append(d.entries, e)
	if over := len(d.entries) - keptMax; over > 0 {
		d.entries = slices.Delete(d.entries, 0, over)
	}
	if d.pending = append(d.pending, e); len(d.pending) > pendingMax {
		d.pending = slices.Delete(d.pending, 0, 1)
		d.lost++
	}
	return e
}

// Told is an entry and how long ago it was. Ago is by the node's monotonic clock for
// what happened since its process started, by the wall clock for what was before;
// it never contradicts the order in which the node counted.
type Told struct {
	Entry
	AgoMs int64 `json:"ago_ms"`
}

// Ago is how long ago it was.
func (t Told) Ago() time.Duration { return time.Duration(t.AgoMs) * time.Millisecond }

// Since returns the entries that are not older than d, in their order.
func (d *Diary) Since(ago time.Duration) []Told {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, wall := d.clock.Mono(), d.clock.Wall()
	var out []Told
	least := time.Duration(0)
	for _, e := range slices.Backward(d.entries) {
		was := now - e.mono
		if e.mono == 0 {
			was = wall.Sub(e.Wall)
		}
		least = max(least, was)
		if least > ago {
			break
		}
		out = append(out, Told{Entry: e, AgoMs: least.Milliseconds()})
	}
	slices.Reverse(out)
	return out
}

// Write makes what was added durable. What the disk does not take is tried again
// with the next Write.
func (d *Diary) Write() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	batch := d.pending
	d.pending = nil
	if d.lost > 0 && len(batch) > 0 {
		batch[0].Text += fmt.Sprintf(" (before it, %d entries found no room)", d.lost)
		d.lost = 0
	}
	d.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	if err := d.append(batch); err != nil {
		d.close()
		d.mu.Lock()
		d.pending = append(batch, d.pending...)
		d.mu.Unlock()
		return fmt.Errorf("write diary %q: %w", d.dir, err)
	}
	return nil
}

func (d *Diary) append(batch []Entry) error {
	if err := d.ready(); err != nil {
		return err
	}
	var text strings.Builder
	for _, e := range batch {
		line, err := encode(e)
		if err != nil {
			return err
		}
		text.WriteString(line)
	}
	if _, err := d.file.WriteAt([]byte(text.String()), d.size); err != nil {
		return err
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	d.size += int64(text.Len())
	return nil
}

// ready opens the file behind its last whole line; a full one becomes the earlier.
// After an error it is opened again: what was written of the batch stands before its
// next try, and counts once, because its numbers do.
func (d *Diary) ready() error {
	path := d.fs.PathJoin(d.dir, currentName)
	if d.file != nil && d.size >= fileMax {
		d.close()
		if err := d.fs.Rename(path, d.fs.PathJoin(d.dir, earlierName)); err != nil {
			return err
		}
	}
	if d.file != nil {
		return nil
	}
	if err := d.fs.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	if err := disk.SyncDir(d.fs, d.fs.PathDir(d.dir)); err != nil {
		return err
	}
	f, err := d.fs.OpenReadWrite(path, "mailnode-diary")
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	d.file, d.size = f, st.Size()
	if d.size > 0 {
		if _, err := f.WriteAt([]byte(cutOff), d.size); err != nil {
			return err
		}
		d.size += int64(len(cutOff))
	}
	return disk.SyncDir(d.fs, d.dir)
}

func (d *Diary) close() {
	if d.file != nil {
		d.file.Close()
		d.file = nil
	}
}

// Close ends the diary; what was not written is lost.
func (d *Diary) Close() {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.close()
}
