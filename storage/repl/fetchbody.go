package repl

import (
	"context"
	"fmt"
	"time"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// Fetched is a body from another copy, proved against its GUID.
type Fetched struct {
	Body *storage.Spool // to be closed
	Note []byte         // the birth note, encoded
}

// FetchBody asks one other copy for a body. storage.ErrNotFound: that copy says
// that it does not have it whole. storage.ErrCorrupt: what came is not the body.
// Any other error: nothing is known about what that copy has.
func FetchBody(ctx context.Context, c ReplicationClient, id slot.ID, ref slot.BodyRef, spool *storage.SpoolDir) (*Fetched, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Bodies(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch body %s: %w", ref, err)
	}
	// What an error of Send is about, Recv says.
	stream.Send(&BodyWant{Slot: uint32(id)})
	ask := func() (*BodyFrame, error) {
		stream.Send(&BodyWant{Guid: ref.GUID[:], BodyId: uint64(ref.ID)})
		return stream.Recv()
	}
	f, err := ask()
	if err == nil && f.Gone && !f.Unread {
		f, err = ask() // believed the second time: the message may be given up for it
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch body %s: %w", ref, err)
	case slot.BodyID(f.BodyId) != ref.ID || string(f.Guid) != string(ref.GUID[:]):
		return nil, storage.Errorf(storage.ErrCorrupt, "fetch body %s: another one came", ref)
	case f.Unread:
		return nil, storage.Errorf(storage.ErrUnavailable, "fetch body %s: that copy cannot read it now", ref)
	case f.Gone:
		return nil, storage.Errorf(storage.ErrNotFound, "fetch body %s: that copy does not have it", ref)
	}
	body, note, err := receiveBody(stream.Recv, ref, f, spool, func(int) {})
	if err != nil {
		return nil, err
	}
	return &Fetched{Body: body, Note: note}, nil
}

// receiveBody takes the frames of one body, of which first is the first, and
// proves it (law 6).
func receiveBody(next func() (*BodyFrame, error), ref slot.BodyRef, first *BodyFrame, spool *storage.SpoolDir, count func(int)) (*storage.Spool, []byte, error) {
	sp := spool.New()
	if err := receiveFrames(next, ref, first, sp, count); err != nil {
		sp.Close()
		return nil, nil, err
	}
	return sp, first.Note, nil
}

func receiveFrames(next func() (*BodyFrame, error), ref slot.BodyRef, f *BodyFrame, sp *storage.Spool, count func(int)) error {
	size := f.Size
	for {
		if event.Checksum(f.Data) != f.Crc32C || f.BodyId != uint64(ref.ID) {
			return storage.Errorf(storage.ErrCorrupt, "receive body %s: a frame's checksum does not match", ref)
		}
		if _, err := sp.Write(f.Data); err != nil {
			return err
		}
		count(len(f.Data))
		if f.Last {
			break
		}
		var err error
		if f, err = next(); err != nil {
			return err
		}
	}
	if sp.Size() != size || sp.GUID() != ref.GUID {
		return storage.Errorf(storage.ErrCorrupt, "receive body %s: %d bytes with GUID %s, want %d", ref, sp.Size(), sp.GUID(), size)
	}
	return nil
}

// otherWithin bounds how long one other copy is asked for a body.
const otherWithin = 30 * time.Second

// askOthers asks the copies beside the master for a body that the master does not
// have, and stages it. It goes on acknowledging, so that the master sees life.
func (f *Follower) askOthers(ctx context.Context, ref slot.BodyRef, ack func() error) (bool, error) {
	if f.o.Others == nil {
		return false, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	came := make(chan bool, 1)
	go func() {
		for _, c := range f.o.Others() {
			if err := f.stageFrom(ctx, c, ref); err == nil {
				came <- true
				return
			}
		}
		came <- false
	}()
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	for {
		select {
		case ok := <-came:
			return ok, nil
		case <-tick.C:
			if err := ack(); err != nil {
				cancel()
				<-came // nothing goes on that uses the copy
				return false, err
			}
		}
	}
}

func (f *Follower) stageFrom(ctx context.Context, c ReplicationClient, ref slot.BodyRef) error {
	ctx, cancel := context.WithTimeout(ctx, otherWithin)
	defer cancel()
	got, err := FetchBody(ctx, c, f.o.Slot.ID(), ref, f.o.Spool)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	f.received(int(got.Body.Size()))
	return f.o.Slot.StageBody(ref, got.Note, got.Body, got.Body.Size())
}

// Refetch makes this replica fetch its master's whole state, as after an event
// that could not be applied: it was found to differ. It does not wait.
func (f *Follower) Refetch(why string) {
	select {
	case f.again <- why:
	default: // asked for already
	}
}

// Refetch makes a replica fetch the whole state: it was found to differ at the
// same position (law 8). From its next connection on it counts for nothing until
// it has.
func (f *Feed) Refetch(n slot.NodeName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refetch == nil {
		f.refetch = map[slot.NodeName]bool{}
	}
	f.refetch[n] = true
	f.changed()
}

// wantsRefetch reports whether a replica has to fetch the state; done: it is told now.
func (f *Feed) wantsRefetch(n slot.NodeName, done bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.refetch[n]
	if done {
		delete(f.refetch, n)
	}
	return w
}
