package local

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Options opens a copy.
type Options struct {
	FS        vfs.FS
	Dir       string
	PacksDir  string // "": packs below Dir; elsewhere it is another volume's
	Cluster   string
	Slot      slot.ID
	Logger    *slog.Logger
	Clock     storage.Clock
	Resources *Resources // shared by all copies of a node
	Passwords *Passwords // shared by all copies of a node
	Limits
	// OnDamage is called with damage when it is met. It must return soon and must not
	// call the Slot.
	OnDamage func(Damage)
	// Refill: the copy was here before. If it is empty now it has lost what it had, and
	// is building until it has been filled again.
	Refill bool
	// OnStep is called with what Open is doing, and how much of it is done, in percent;
	// -1: that is not known. It must return soon.
	OnStep func(step string, percent int)
	// Features returns the cluster's feature level: a master makes no event of a newer
	// kind. nil: the first. It must return at once.
	Features  func() slot.FeatureLevel
	uncounted bool // a Rebuild opens it, to compute its derived records
}

// Limits are what a copy keeps and how long it waits; 0 is the ordinary value.
type Limits struct {
	// JournalEventsMax is how many events are kept for replicas; 0: 2,000,000.
	JournalEventsMax int
	// Undelete is how long, by the slot clock, what was removed can be brought
	// back; Master.Free forgets it afterwards. 0: 7 days; below 0: not at all.
	Undelete time.Duration
	// HangAfter is how long the disk may take to answer before the copy fails; 0: 30 s.
	HangAfter time.Duration
	// PackBytesMax is for tests; 0: blob's default.
	PackBytesMax int64
	sizes        sizes
}

func (l Limits) withPresets() Limits {
	l.JournalEventsMax = cmp.Or(l.JournalEventsMax, 2_000_000)
	l.Undelete = cmp.Or(l.Undelete, 7*24*time.Hour)
	l.HangAfter = cmp.Or(l.HangAfter, disk.HangAfter)
	l.sizes = l.sizes.withPresets()
	return l
}

// sizes are where changes are cut, refused, or prepared as large ones; tests have smaller
// sizes, 0 is the ordinary one.
type sizes struct {
	eventBytes int // of one event at most
	small      int // records of a RENAME from which on it is a large change
	copied     int // messages of a COPY
	applied    int // records of an event, at a replica

	mailboxes, subscriptions int // of an account
}

func (z sizes) withPresets() sizes {
	return sizes{cmp.Or(z.eventBytes, event.BytesMax), cmp.Or(z.small, smallMax), cmp.Or(z.copied, copyMax),
		cmp.Or(z.applied, 2*storage.MaxTxnRecords+closureSpare),
		cmp.Or(z.mailboxes, storage.MaxMailboxes), cmp.Or(z.subscriptions, storage.MaxSubscriptions)}
}

func withPresets(o Options) Options {
	o.Limits = o.Limits.withPresets()
	if o.PacksDir == "" {
		o.PacksDir = o.FS.PathJoin(o.Dir, "packs")
	}
	return o
}

func (o Options) features() slot.FeatureLevel {
	if o.Features == nil {
		return slot.FirstFeatureLevel
	}
	return o.Features()
}

// step tells those that wait for Open how far it is.
func (o Options) step(what string, percent int) {
	if o.OnStep != nil {
		o.OnStep(what, percent)
	}
}

// folders are where the copy's files are, one per volume.
func (o Options) folders() []string {
	if o.PacksDir == o.FS.PathJoin(o.Dir, "packs") {
		return []string{o.Dir}
	}
	return []string{o.Dir, o.PacksDir}
}

// indexDir is the folder of the index.
func (o Options) indexDir() string { return o.FS.PathJoin(o.Dir, "index") }
