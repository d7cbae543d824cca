package storage

import (
	"sync"
	"time"

	"mailnode/storage/disk"
)

// What messages that are on their way in may take, before they are anybody's mail.
// A message counts with what its sender has announced, from before it is asked for
// until its Spool is closed. An owner that has nothing else on its way may send one
// message of any size that the node's budget has room for; a node that has nothing
// else, one of any size at all.
const (
	// SpoolBytesMax is for all messages of a node. Messages of at most
	// spoolSmallBytes, which need no file, may use all of it, larger ones three
	// quarters: a few large ones must not keep mail out.
	SpoolBytesMax = 1 << 30
	// SpoolOwnerBytesMax is for the messages of one account.
	SpoolOwnerBytesMax = 256 << 20
	// SpoolsOwnerMax is how many messages of one account may be on their way.
	SpoolsOwnerMax = 32
	// spoolStepBytes is what a message of unknown size takes at a time.
	spoolStepBytes = 1 << 20
)

// SpoolOwner is who sends a message.
type SpoolOwner struct {
	Name                string // equal names share
	BytesMax, SpoolsMax int64  // 0: no limit but the node's
}

// spoolBudget counts what is on its way in.
type spoolBudget struct {
	mu     sync.Mutex
	bytes  int64
	owners map[string]spoolShare // only those that have something
}

type spoolShare struct{ bytes, spools int64 }

// take counts bytes more of a message that has size bytes then; begins: it is new.
func (b *spoolBudget) take(o SpoolOwner, bytes, size int64, begins bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	has := b.owners[o.Name]
	if begins {
		has.spools++
	}
	has.bytes += bytes
	limit := int64(SpoolBytesMax)
	if size > spoolSmallBytes {
		limit = SpoolBytesMax / 4 * 3
	}
	switch {
	case o.SpoolsMax > 0 && has.spools > o.SpoolsMax:
		return Errorf(ErrLimit, "receive message: %d others of %s are on their way", has.spools-1, o.Name)
	case o.BytesMax > 0 && has.bytes > o.BytesMax && has.bytes > size:
		return Errorf(ErrLimit, "receive message: %s has %d bytes on their way, at most %d", o.Name, has.bytes-bytes, o.BytesMax)
	case b.bytes+bytes > limit && b.bytes+bytes > size:
		return Errorf(ErrDiskFull, "receive message: %d bytes of messages are on their way, at most %d", b.bytes, limit)
	}
	if b.owners == nil {
		b.owners = map[string]spoolShare{}
	}
	b.bytes += bytes
	b.owners[o.Name] = has
	return nil
}

func (b *spoolBudget) giveBack(o SpoolOwner, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	has := b.owners[o.Name]
	b.bytes -= bytes
	has.bytes, has.spools = has.bytes-bytes, has.spools-1
	if has.spools == 0 {
		delete(b.owners, o.Name)
		return
	}
	b.owners[o.Name] = has
}

// announced is what a Spool counts for.
type announced struct {
	dir   *SpoolDir
	owner SpoolOwner
	bytes int64
	rooms []*disk.Hold // on the disk that has the folder
}

// grow announces a message of size bytes in all.
func (a *announced) grow(size int64) error {
	more := size - a.bytes
	room, err := a.dir.room(size, more)
	if err != nil {
		return err
	}
	if err := a.dir.budget.take(a.owner, more, size, a.bytes == 0 && a.rooms == nil); err != nil {
		room.Cancel()
		return err
	}
	a.bytes, a.rooms = size, append(a.rooms, room)
	return nil
}

// atLeast announces more than a sender has announced: what it has sent, in steps.
func (a *announced) atLeast(size int64) error {
	switch {
	case size <= a.bytes:
		return nil
	case size <= spoolSmallBytes:
		return a.grow(spoolSmallBytes) // needs no file yet
	}
	return a.grow(max(size, a.bytes+spoolStepBytes))
}

// wrote says that bytes are on the disk, and need no room there any more.
func (a *announced) wrote(bytes int64) {
	for _, h := range a.rooms {
		bytes -= h.Wrote(bytes)
	}
}

func (a *announced) end() {
	for _, h := range a.rooms {
		h.Cancel()
	}
	a.dir.budget.giveBack(a.owner, a.bytes)
}

// room keeps room for a message that will have a file.
func (d *SpoolDir) room(size, more int64) (*disk.Hold, error) {
	if d.Space == nil || size <= spoolSmallBytes {
		return nil, nil
	}
	h, err := d.Space.Hold(disk.Grow, more)
	if err != nil {
		return nil, Errorf(ErrDiskFull, "receive message: %w", err)
	}
	return h, nil
}

// Announce starts a Spool for a message of an owner that has announced its size, in
// bytes; 0: it has not, and the message takes what it needs as it grows. ErrLimit:
// the owner has too much on its way; ErrDiskFull: all have, or the disk has no room.
func (d *SpoolDir) Announce(o SpoolOwner, size int64) (*Spool, error) {
	a := &announced{dir: d, owner: o}
	if err := a.grow(max(size, 1)); err != nil {
		return nil, err
	}
	s := d.New()
	s.announced = a
	return s, nil
}

// SpoolFloorBytesPerSec is how fast a message must come in: who is slower keeps
// room from others for hours.
const SpoolFloorBytesPerSec = 1 << 10

// Pace notices a sender that is slower than that, averaged over a window of the time
// for which it was waited for: what our own disk takes is not its fault.
type Pace struct {
	Window time.Duration
	waited time.Duration
	bytes  int64
}

// TooSlow counts bytes that were waited for, and reports whether the window that ends
// with them had too few.
func (p *Pace) TooSlow(waited time.Duration, bytes int) bool {
	p.waited += waited
	p.bytes += int64(bytes)
	if p.waited < p.Window {
		return false
	}
	slow := p.bytes < int64(p.waited.Seconds()*SpoolFloorBytesPerSec)
	p.waited, p.bytes = 0, 0
	return slow
}
