package local

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// CheckState is how one check of a copy's start ended.
type CheckState string

// The states of a check. CheckFailed keeps the copy down; CheckWarned does not.
const (
	CheckPassed CheckState = "ok"
	CheckWarned CheckState = "warning"
	CheckFailed CheckState = "FAILED"
)

// Check is one line of the self-check that a copy makes when it is opened.
type Check struct {
	Name  string
	State CheckState
	Text  string
}

// String returns the line, such as "ok: identity: cluster 7a6a, slot s007".
func (c Check) String() string { return fmt.Sprintf("%s: %s: %s", c.State, c.Name, c.Text) }

// Refused is Open's error: which check failed, why, and what to type next. It does not
// concern the other copies of the node (law 9).
type Refused struct {
	Slot   slot.ID
	Checks []Check // the last one failed
	Next   string
	Err    error

	dog *disk.Watchdog // of the files that were opened
}

// Held returns why the files cannot be opened again yet, nil when they can: the disk has
// something of the copy that was refused, and has not answered (disk.ErrHangs).
func (r *Refused) Held() error {
	if r.dog == nil {
		return nil
	}
	return r.dog.Cut(0)
}

// Error names the check.
func (r *Refused) Error() string {
	return fmt.Sprintf("open slot %s: %s check: %v; %s", r.Slot, r.Checks[len(r.Checks)-1].Name, r.Err, r.Next)
}

// Unwrap returns the cause, for its kind.
func (r *Refused) Unwrap() error { return r.Err }

// What to do about a check that failed. The files stay as they are.
const (
	nextDisk    = "mount the right disk, then `systemctl restart mailnode`"
	nextRelease = "install the newer release on this node: `mailnode version`"
	nextHangs   = "look at the disk (`dmesg`); it opens by itself when the disk answers. Until then serve the slot elsewhere: `mailnode failover list`"
	nextSpace   = "free space (`df -h`): it opens by itself when there is room"
	nextDamage  = "keep the files, look at the disk (`dmesg`, `smartctl -a`), serve the slot elsewhere: `mailnode failover list`"
)

var errNewerFormat = errors.New("written by a newer release")

// next returns what to do about a failed check.
func next(name string, err error) string {
	switch {
	case errors.Is(err, errNewerFormat):
		return nextRelease
	case errors.Is(err, storage.ErrDiskFull) || errors.Is(err, syscall.ENOSPC):
		return nextSpace
	case name == "identity" || name == "packs folder":
		return nextDisk
	}
	return nextDamage
}

// selfCheck is what a copy checks when it is opened, line by line.
type selfCheck struct {
	slot  slot.ID
	log   *slog.Logger
	step  func(what string, percent int)
	lines []Check
}

// Checks returns the self-check that Open made, in its order.
func (s *Slot) Checks() []Check { return s.check.lines }

// run runs a check and notes its line, whose text fn returns.
func (c *selfCheck) run(name string, fn func() (string, error)) error {
	c.step("checks its "+name, -1)
	text, err := fn()
	if err != nil {
		return c.refuse(name, err)
	}
	c.lines = append(c.lines, Check{name, CheckPassed, text})
	return nil
}

// refuse notes a check that failed.
func (c *selfCheck) refuse(name string, err error) error {
	c.lines = append(c.lines, Check{name, CheckFailed, err.Error()})
	return &Refused{Slot: c.slot, Checks: c.lines, Next: next(name, err), Err: err}
}

// note adds the line of a check that keeps no copy down: a warning when doubt is not "".
func (c *selfCheck) note(name, text, doubt string) {
	if doubt == "" {
		c.lines = append(c.lines, Check{name, CheckPassed, text})
		return
	}
	c.log.Warn("self-check", "check", name, "doubt", doubt)
	c.lines = append(c.lines, Check{name, CheckWarned, doubt})
}

// Bounds of what the newest records cost at a start. After an unclean stop more of them
// are read: there is what a disk that lies about its syncs has lost.
const (
	tailEventsMax       = 64
	tailBodiesMax       = 64
	tailBytesMax        = 64 << 20
	cleanTailBodiesMax  = 8
	cleanTailBytesMax   = 2 << 20
	tailDamagedMax      = 8 // bodies: with more, and more than half, the packs are not this index's
	clockToleranceS     = 60
	yearLeast, yearMost = 2024, 2200
)

// tail is what the newest events tell.
type tail struct {
	events int
	bodies []slot.BodyRef // newest first, each once
	wall   int64          // the newest wall-clock second that they carry
}

// proveTail proves the newest events against their checksums and the head.
func (s *Slot) proveTail(t *tail) (string, error) {
	v := s.acquire()
	defer v.release()
	it, err := v.iter(event.SpanOf([]byte{event.PrefixJournal}))
	if err != nil {
		return "", err
	}
	defer it.Close()
	head, _, err := v.head()
	if err != nil {
		return "", err
	}
	seen := map[slot.BodyRef]bool{}
	for ok := it.Last(); ok && t.events < tailEventsMax; ok = it.Prev() {
		p := event.PositionOf(it.Key())
		if t.events == 0 && p != head {
			return "", storage.Errorf(storage.ErrCorrupt, "the journal ends at %s, the head is %s", p, head)
		}
		raw, err := it.ValueAndErr()
		if err != nil {
			return "", readError(err)
		}
		ev, err := event.Decode(raw)
		if err != nil {
			return "", storage.Errorf(storage.ErrCorrupt, "event %s: %w", p, err)
		}
		t.events++
		for _, c := range ev.Changes {
			t.wall = max(t.wall, c.GetMessage().GetSavedUnix(), c.GetAccount().GetCreatedUnix())
		}
		for _, ref := range ev.Bodies() {
			if len(t.bodies) < tailBodiesMax && !seen[ref] {
				seen[ref] = true
				t.bodies = append(t.bodies, ref)
			}
		}
	}
	if err := it.Error(); err != nil {
		return "", readError(err)
	}
	return fmt.Sprintf("%d events up to %s match their checksums", t.events, head), nil
}

// proveNewest proves the newest bodies. A damaged one is named, as when a client
// asks for it: it is repaired, and the copy serves (law 9). When most of many
// are damaged or gone, the packs are not those of this index.
func (s *Slot) proveNewest(t *tail) error {
	bodiesMax, bytesMax := tailBodiesMax, int64(tailBytesMax)
	if !s.found.dirty {
		bodiesMax, bytesMax = cleanTailBodiesMax, cleanTailBytesMax
	}
	v := s.acquire()
	defer v.release()
	proved, damaged, bytes := 0, 0, int64(0)
	uncached := map[uint32]bool{} // after an unclean stop the disk is asked, not the system's memory
	var worst error
	for _, ref := range t.bodies {
		loc, err := s.locate(v, ref)
		if errors.Is(err, storage.ErrNotFound) {
			continue // dropped since
		}
		if errors.Is(err, storage.ErrCorrupt) { // the index is damaged there, not the body
			worst, damaged = s.met(err), damaged+1
			continue
		}
		if err == nil && (proved+damaged >= bodiesMax || bytes+loc.Size > bytesMax) {
			break
		}
		if err == nil {
			bytes += loc.Size
			if s.found.dirty && !uncached[loc.Pack] {
				uncached[loc.Pack] = true
				_ = s.packs.UncachePack(loc.Pack) // one that cannot be opened cannot be read either
			}
			var b interface{ Close() error }
			if b, err = s.packs.Open(ref, loc); err == nil {
				proved++
				b.Close() // of a body that is open for reading: nothing can be lost
				continue
			}
		}
		damaged++
		worst = s.damaged(Damage{Body: ref, Err: err})
	}
	if damaged > tailDamagedMax && damaged > proved {
		return s.check.refuse("newest bodies", storage.Errorf(storage.ErrCorrupt,
			"%d of the newest %d are damaged or gone: are the packs those of this index? %w", damaged, proved+damaged, worst))
	}
	doubt := ""
	if damaged > 0 {
		doubt = fmt.Sprintf("%d of the newest %d are damaged or gone, a replica may have them: %v", damaged, proved+damaged, worst)
	}
	s.check.note("newest bodies", fmt.Sprintf("%d bodies, %d KiB, match their checksums", proved, bytes>>10), doubt)
	return nil
}

// wallSeen is what the newest events tell of the wall clock under which they were made.
type wallSeen struct {
	newestUnix int64
	births     uint64 // messages that the copy had seen then
}

// ClockDoubt returns why this machine's wall clock cannot be right, "" when it can be.
// Nothing depends on the clock (law 11) but the dates that people see. A record from
// the future may mean that the clock was wrong then, or that it is wrong now. The doubt
// ends when another node's clock shows the same time (agreed), or after as many new
// messages as a start looks at.
func (s *Slot) ClockDoubt(agreed bool) string {
	now := s.o.Clock.Wall()
	outdated := false
	if h, err := s.Head(); err == nil {
		outdated = h.Births >= s.found.wall.births+tailEventsMax
	}
	switch {
	case now.Year() < yearLeast || now.Year() > yearMost:
		return fmt.Sprintf("the clock says %s", now.UTC().Format(time.RFC3339))
	case agreed || outdated:
	case now.Unix()+clockToleranceS < s.found.wall.newestUnix:
		return fmt.Sprintf("the clock says %s, and slot %s has something of %s", now.UTC().Format(time.RFC3339), s.o.Slot, time.Unix(s.found.wall.newestUnix, 0).UTC().Format(time.RFC3339))
	}
	return ""
}
