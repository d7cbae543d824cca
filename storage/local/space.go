package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"mailnode/storage"
	"mailnode/storage/disk"
)

// space is a copy's room: that of the disk with its index, and that of the disk
// with its packs, which is usually the same. A change that takes more of the disk asks
// twice: before it is queued (hold), and in the committer (allow), where it must not
// wait for the disk.
type space struct {
	index, packs *disk.Space
	stall        stall
	putOff       putOff
}

func (sp *space) init(s *Slot) {
	sp.index = s.o.Resources.Disks.At(s.o.FS, s.o.Dir, s.o.Clock.Mono)
	sp.packs = s.o.Resources.Disks.At(s.o.FS, s.o.PacksDir, s.o.Clock.Mono)
	sp.stall.init()
}

// each returns the disks, each once.
func (sp *space) each() []*disk.Space {
	if sp.index == sp.packs {
		return []*disk.Space{sp.index}
	}
	return []*disk.Space{sp.index, sp.packs}
}

// DiskTrouble says that a disk of the copy is slow or fails, though it is served from it;
// "" when all is well. It waits for no disk.
func (s *Slot) DiskTrouble() string {
	for _, sp := range s.space.each() {
		if why := sp.Trouble(); why != "" {
			return why
		}
	}
	return ""
}

// held is room on both disks.
type held [2]*disk.Hold

func (h held) release() {
	h[0].Release()
	h[1].Release()
}

func (h held) cancel() {
	h[0].Cancel()
	h[1].Cancel()
}

// hold keeps room for bytes that are about to be written, or returns ErrDiskFull.
func (sp *space) hold(l disk.Level, bytes int64) (h held, err error) {
	if err := sp.stall.err(); err != nil {
		return h, err
	}
	if h[0], err = sp.packs.Hold(l, bytes); err != nil {
		return h, storage.Errorf(storage.ErrDiskFull, "%w", err)
	}
	if sp.index == sp.packs {
		return h, nil
	}
	if h[1], err = sp.index.Hold(l, bytes); err != nil {
		h.release()
		return held{}, storage.Errorf(storage.ErrDiskFull, "%w", err)
	}
	return h, nil
}

// allow returns ErrDiskFull when there is no room at a level. It waits for no disk.
func (sp *space) allow(l disk.Level) error {
	err := sp.packs.Allow(l)
	if err == nil && sp.index != sp.packs {
		err = sp.index.Allow(l)
	}
	if err != nil {
		return storage.Errorf(storage.ErrDiskFull, "%w", err)
	}
	return nil
}

// announcements are the bytes that clients have announced for APPEND, and have not sent
// yet: they count against the quota.
type announcements struct {
	mu    sync.Mutex
	bytes map[storage.AccountID]int64 // only those that are not 0
}

// add counts bytes, and returns what the account has announced with them.
func (n *announcements) add(id storage.AccountID, bytes int64) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bytes == nil {
		n.bytes = map[storage.AccountID]int64{}
	}
	now := n.bytes[id] + bytes
	if n.bytes[id] = now; now == 0 {
		delete(n.bytes, id)
	}
	return now
}

// Announce implements storage.Messages.
func (m *Master) Announce(ctx context.Context, id storage.AccountID, bytes int64) (end func(), err error) {
	room, err := m.s.space.hold(disk.Grow, bytes)
	if err != nil {
		return nil, err
	}
	all := m.announced.add(id, bytes)
	end = sync.OnceFunc(func() { room.cancel(); m.announced.add(id, -bytes) })
	if err := m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		return checkQuota(v, a, all)
	}); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// growing is acknowledged for a change that takes more of the disk: it is refused
// before anything is written when the reserve would not be left. How much a large
// change takes is known when it is prepared (prepareAndEnter).
func (m *Master) growing(ctx context.Context, fn func(t *txn) error, accounts ...storage.AccountID) error {
	if _, err := m.s.space.hold(disk.Grow, 0); err != nil {
		return err
	}
	return m.acknowledged(ctx, func(t *txn) error {
		if err := m.s.space.allow(disk.Grow); err != nil {
			return err // it has waited in the queue
		}
		return fn(t)
	}, accounts...)
}

// roomForKeywords refuses keywords that a mailbox does not have yet when the disk has no
// room for growth: flags that it has can still be set, from the reserve. Which keywords
// the mailbox has is looked up only then.
func (m *Master) roomForKeywords(ctx context.Context, r storage.Ref, c storage.FlagChange) error {
	if c.Op == storage.FlagsRemove || len(c.Flags.Keywords) == 0 {
		return nil
	}
	_, full := m.s.space.hold(disk.Grow, 0)
	if full == nil {
		return nil
	}
	unknown := map[string]struct{}{}
	for _, k := range c.Flags.Keywords {
		unknown[k] = struct{}{}
	}
	if err := stopEarly(m.Scan(ctx, r, 1, ^storage.UID(0), func(msg storage.Message) error {
		for _, k := range msg.Flags.Keywords {
			delete(unknown, k)
		}
		if len(unknown) == 0 {
			return errEnough
		}
		return nil
	})); err != nil {
		return err
	}
	if len(unknown) > 0 {
		return full
	}
	return nil
}

// stall is set while a write of the index waits for room (Slot.roomy). What was
// acknowledged is safe, and reading goes on; but nothing more becomes durable until
// there is room.
type stall struct {
	mu    sync.Mutex
	n     int           // writes that wait
	why   error         // the error of the first of them
	told  bool          // this one is in the log
	last  time.Duration // Clock.Mono when one was last logged
	began chan struct{} // closed while n > 0; replaced when the last one has gone on
}

func (s *stall) init() { s.began = make(chan struct{}) }

// stallToldEvery is how often it is logged that writes wait: on a disk that something
// else fills there may be some room now and then.
const stallToldEvery = time.Minute

// begin notes a write that waits, and reports whether that is to be logged.
func (s *stall) begin(cause error, now time.Duration) (tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n++; s.n > 1 {
		return false
	}
	s.why = cause
	close(s.began)
	if s.told = s.last == 0 || now-s.last >= stallToldEvery; s.told {
		s.last = now
	}
	return s.told
}

// end notes that a write has gone on, and reports whether it is to be logged that none
// waits any more.
func (s *stall) end() (tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n--; s.n > 0 {
		return false
	}
	s.init()
	return s.told
}

// begins returns a channel that is closed when a write waits.
func (s *stall) begins() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

// err returns why no change can become durable, nil when none waits.
func (s *stall) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		return nil
	}
	return storage.Errorf(storage.ErrDiskFull, "the index waits for room: %w", s.why)
}

// NoRoom returns why the copy takes no changes at all until there is room on its
// disk; nil: it takes some. Meanwhile it can be read, and it goes on by itself. NoRoom
// itself never waits for the disk.
func (s *Slot) NoRoom() error {
	if s.Failure() != nil {
		return nil
	}
	if err := s.space.stall.err(); err != nil {
		return err
	}
	return s.space.allow(disk.Change)
}

// roomAgainEvery is how often a write that found no room is tried again.
const roomAgainEvery = 100 * time.Millisecond

// roomy runs a write of the index until there is room for it. Pebble takes any
// error of its log and of its list of files for fatal, but a write that was refused for
// want of room has done no harm: the bytes before it are where they were, nothing was
// synced, and what is left of it can be written later. So Pebble never sees that error.
// The ballast is given up first; without one the write waits, and every change that
// would have to wait for it is refused (Slot.do).
func (s *Slot) roomy(opened func() bool, write func() error) error {
	err := write()
	if !diskFull(err) {
		return err
	}
	if s.space.index.GiveUpBallast() {
		s.log.Warn("the disk is full: its ballast was given up", "err", err)
		if err = write(); !diskFull(err) {
			return err
		}
	}
	if !opened() {
		return err // Open returns it, and its caller tries again
	}
	s.stalls(err)
	s.db.Pause()
	for diskFull(err) {
		s.awaitRoom(err)
		err = write()
	}
	s.db.Resume()
	s.goesOn()
	return err
}

// stalls notes that nothing more can become durable until there is room.
func (s *Slot) stalls(cause error) {
	if s.space.stall.begin(cause, s.o.Clock.Mono()) {
		s.log.Error("the disk is full: changes wait for room, reading goes on", "err", cause)
	}
}

func (s *Slot) goesOn() {
	if s.space.stall.end() {
		s.log.Info("there is room again: changes go on")
	}
}

// awaitRoom waits until a write is worth another try. When the copy has failed, or
// is closed, it never returns: when the copy is opened again, what could not be written
// is missing as after an unclean stop.
func (s *Slot) awaitRoom(cause error) {
	again := time.NewTimer(roomAgainEvery)
	defer again.Stop()
	select {
	case <-again.C:
	case <-s.com.quit:
		s.fail(fmt.Errorf("write index: closed while it waited for room: %w", cause))
		select {}
	case <-s.Failed():
		select {}
	}
}

// leaveRoom waits until a compaction may write; the error means that the copy is
// being closed. It asks the disk only: writes that stand still may wait for just this
// compaction.
func (s *Slot) leaveRoom() error {
	_, err := s.space.index.Hold(disk.Follow, 0)
	if err == nil {
		return nil
	}
	s.db.Pause()
	defer s.db.Resume()
	s.standstill(err, func(p *putOff) { p.compactions++ })
	defer s.standstill(nil, func(p *putOff) { p.compactions-- })
	for err != nil {
		again := time.NewTimer(roomAgainEvery)
		select {
		case <-again.C:
		case <-s.com.quit:
			return err
		case <-s.Failed():
			return err
		}
		_, err = s.space.index.Hold(disk.Follow, 0)
	}
	return nil
}

// putOff notes the two waits that together are a standstill, whichever comes first:
// Pebble makes writers wait for a compaction, and a compaction waits for room.
type putOff struct {
	mu          sync.Mutex // guards all below; the stall begins and ends under it
	writers     string     // what Pebble makes them wait for; "": they do not
	compactions int        // that wait for room
	stands      bool
}

func (s *Slot) standstill(cause error, change func(p *putOff)) {
	p := &s.space.putOff
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
	was := p.stands
	p.stands = p.writers != "" && p.compactions > 0
	switch {
	case p.stands && !was:
		s.stalls(cmp.Or(cause, errors.New(p.writers)))
	case was && !p.stands:
		s.goesOn()
	}
}

// writesStall is called when Pebble makes writers wait for a flush or a compaction.
func (s *Slot) writesStall(reason string) {
	s.standstill(nil, func(p *putOff) { p.writers = reason })
}

func (s *Slot) writesGoOn() { s.standstill(nil, func(p *putOff) { p.writers = "" }) }
