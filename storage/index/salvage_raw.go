package index

import (
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// Raw calls fn for the records of an index whose list of files is damaged: of every
// table, then of every log, older ones first. What was deleted or overwritten may
// be among them, so the caller keeps the newer of two by what the records say.
func (x *Salvage) Raw(fn func(key, value []byte) error) error {
	names, err := x.fs.List(x.dir)
	if err != nil {
		return nil //nolint:nilerr // there is none, and that was said
	}
	slices.Sort(names) // numbers have six digits and more: near enough to their order
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			if err := x.table(name, fn); err != nil {
				return err
			}
		}
	}
	for _, name := range logs(names) {
		if _, err := x.readLog(name, func(batch []byte) error { return sets(batch, fn) }); err != nil && isCallers(err) {
			return err
		}
	}
	return nil
}

// callersError tells fn's errors from damage.
type callersError struct{ error }

func isCallers(err error) bool { _, is := err.(callersError); return is }

func sets(batch []byte, fn func(key, value []byte) error) error {
	for r := batchrepr.Read(batch); ; {
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil {
			return err
		}
		if kind == pebble.InternalKeyKindSet {
			if err := fn(key, value); err != nil {
				return callersError{err}
			}
		}
	}
}

// table reads a table as far as its blocks are sound.
func (x *Salvage) table(name string, fn func(key, value []byte) error) error {
	f, err := x.fs.Open(x.fs.PathJoin(x.dir, name))
	if err != nil {
		x.Why = append(x.Why, name+": "+err.Error())
		return nil
	}
	r, err := readTable(f)
	if err != nil {
		x.Why = append(x.Why, name+": "+err.Error())
		return nil
	}
	defer r.Close()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		x.Why = append(x.Why, name+": "+err.Error())
		return nil
	}
	defer it.Close()
	for kv := it.First(); kv != nil; kv = it.Next() {
		value, _, err := kv.Value(nil)
		if err != nil {
			continue
		}
		if kv.Kind() == pebble.InternalKeyKindSet || kv.Kind() == pebble.InternalKeyKindSetWithDelete {
			if err := fn(kv.K.UserKey, value); err != nil {
				return err
			}
		}
	}
	if err := it.Error(); err != nil {
		x.Why = append(x.Why, name+": "+err.Error())
	}
	return nil
}
