package disk

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sizedFS is a file system in memory that says what is free, and refuses to
// allocate more.
type sizedFS struct {
	vfs.FS
	mu   sync.Mutex
	free int64
	made map[string]int64 // allocated, by path
	asks int
	err  error // of each question
	none bool  // it cannot allocate
}

func newSizedFS(free int64) *sizedFS {
	return &sizedFS{FS: vfs.NewMem(), free: free, made: map[string]int64{}}
}

func (f *sizedFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks++
	return vfs.DiskUsage{AvailBytes: uint64(f.free)}, f.err
}

func (f *sizedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return &sizedFile{file, f, name}, err
}

func (f *sizedFS) Remove(name string) error {
	err := f.FS.Remove(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.free += f.made[name]
		delete(f.made, name)
	}
	return err
}

type sizedFile struct {
	vfs.File
	fs   *sizedFS
	path string
}

func (f *sizedFile) Preallocate(_, n int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.none {
		return syscall.EOPNOTSUPP
	}
	if f.fs.free < n {
		return syscall.ENOSPC
	}
	f.fs.free -= n
	f.fs.made[f.path] += n
	return nil
}

// WriteAt makes the file as long as it is, without the memory.
func (f *sizedFile) WriteAt(b []byte, off int64) (int, error) {
	return len(b), f.fs.setSize(f.path, off+int64(len(b)))
}

func (f *sizedFS) setSize(path string, size int64) error {
	file, err := f.FS.Create(path, "test")
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(make([]byte, size))
	return err
}

type handClock struct{ now time.Duration }

func (c *handClock) mono() time.Duration { return c.now }

// Each level leaves what it must leave, and what was announced or written since the
// last look counts.
func TestLevels(t *testing.T) {
	fs, clock := newSizedFS(ReserveBytes+10), &handClock{}
	s := (&Disks{}).At(fs, "/", clock.mono)
	first, err := s.Hold(Grow, 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hold(Grow, 5); !errors.Is(err, ErrFull) {
		t.Errorf("5 bytes beside 6 that are announced, of 10: %v", err)
	}
	first.Wrote(2)
	first.Release()
	if err := s.Allow(Grow); err != nil {
		t.Errorf("4 bytes are left: %v", err)
	}
	if _, err := s.Hold(Grow, 5); !errors.Is(err, ErrFull) {
		t.Errorf("5 bytes beside 6 that were written, of 10: %v", err)
	}
	second, err := s.Hold(Grow, 4)
	if err != nil {
		t.Fatal(err)
	}
	second.Cancel()
	if _, err := s.Hold(Grow, 4); err != nil {
		t.Errorf("4 bytes, after others were given up: %v", err)
	}
	fs.free, clock.now = ReserveBytes/2, lookEvery
	for l, want := range map[Level]bool{Grow: false, Follow: false, Change: true} { // the 4 still count
		if _, err := s.Hold(l, 0); (err == nil) != want {
			t.Errorf("level %d with half of the reserve, less 4 bytes: %v", l, err)
		}
	}
	if fs.asks != 2 {
		t.Errorf("the file system was asked %d times in two moments", fs.asks)
	}
}

// One file system has one account, whoever asks for a folder of it.
func TestFoldersShareTheirDisk(t *testing.T) {
	d, fs, clock := &Disks{}, newSizedFS(0), &handClock{}
	volume := d.At(fs, "/srv/a", clock.mono)
	for dir, same := range map[string]bool{"/srv/a/slots/s007": true, "/srv/ab": false, "/srv": false} {
		if got := d.At(fs, dir, clock.mono); (got == volume) != same {
			t.Errorf("%q: shared is %v", dir, got == volume)
		}
	}
	if d.At(fs, "/srv/a/spool", clock.mono) != volume {
		t.Error("a folder above was asked for later: the nearest one counts")
	}
}

// A file system that cannot say what is free has no limit.
func TestUnknownSpaceIsNoLimit(t *testing.T) {
	fs := newSizedFS(0)
	fs.err = syscall.ENOSYS
	s := (&Disks{}).At(fs, "/", (&handClock{}).mono)
	if _, err := s.Hold(Grow, 1<<40); err != nil {
		t.Error(err)
	}
}

// The ballast is made when there is room, taken up by the next process, given up
// once, and not made again before there is much room.
func TestBallast(t *testing.T) {
	fs, clock := newSizedFS(ballastRoomBytes), &handClock{}
	s := (&Disks{}).At(fs, "/", clock.mono)
	if _, err := s.Tend(); err != nil || fs.free != ballastRoomBytes-BallastBytes {
		t.Fatalf("%d bytes are free with a ballast: %v", fs.free, err)
	}
	s = (&Disks{}).At(fs, "/", clock.mono)
	if _, err := s.Tend(); err != nil || s.ballast != BallastBytes || fs.free != ballastRoomBytes-BallastBytes {
		t.Fatalf("the next process has a ballast of %d bytes, %d are free: %v", s.ballast, fs.free, err)
	}
	fs.free = 0
	clock.now += lookEvery
	if _, err := s.Hold(Change, 0); err != nil {
		t.Errorf("the ballast does not count for a change: %v", err)
	}
	if _, err := s.Hold(Grow, 0); !errors.Is(err, ErrFull) {
		t.Errorf("the ballast counts for growth: %v", err)
	}
	if !s.GiveUpBallast() || fs.free != BallastBytes {
		t.Fatalf("%d bytes are free without the ballast", fs.free)
	}
	if s.GiveUpBallast() {
		t.Error("given up twice")
	}
	fs.free = ballastRoomBytes - 1
	if _, err := s.Tend(); err != nil || s.ballast != 0 {
		t.Errorf("a ballast of %d bytes was made on a full disk: %v", s.ballast, err)
	}
}

// A file that is not whole is no ballast: what it has is not known.
func TestBallastThatWasCutOff(t *testing.T) {
	fs := newSizedFS(ballastRoomBytes)
	f, err := fs.FS.Create("/"+ballastName, "test")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	s := (&Disks{}).At(fs, "/", (&handClock{}).mono)
	if _, err := s.Tend(); err != nil || s.ballast != BallastBytes || fs.made["/"+ballastName] != BallastBytes {
		t.Errorf("a ballast of %d bytes, %d allocated: %v", s.ballast, fs.made["/"+ballastName], err)
	}
}

// A file system without fallocate keeps none, and that is told once.
func TestNoBallastIsToldOnce(t *testing.T) {
	fs := newSizedFS(ballastRoomBytes)
	fs.none = true
	s := (&Disks{}).At(fs, "/", (&handClock{}).mono)
	if _, err := s.Tend(); !errors.Is(err, ErrNoBallast) {
		t.Errorf("%v", err)
	}
	if free, err := s.Tend(); err != nil || free != ballastRoomBytes {
		t.Errorf("%d bytes are free, %v", free, err)
	}
}

// On a real file system the blocks of the ballast are really taken, and come back.
func TestBallastTakesRealBlocks(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	s := (&Disks{}).At(vfs.Default, dir, (&handClock{}).mono)
	before, err := s.Tend()
	if err != nil {
		t.Fatal(err)
	}
	if with, err := s.Free(); err != nil || before-with < BallastBytes {
		t.Errorf("%d bytes were free, %d with the ballast: %v", before, with, err)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = f.Write(block)
	}
	if !NoRoom(err) || !s.GiveUpBallast() {
		t.Fatalf("the disk is full (%v), and there is no ballast", err)
	}
	for range BallastBytes >> 20 {
		if _, err := f.Write(block); err != nil {
			t.Fatalf("write what the ballast had: %v", err)
		}
	}
}

// TestFolderIsOpenedAgainWhileItIsAsked: whoever opens a folder again brings another
// seam while others ask through the one before; the race detector is the check.
func TestFolderIsOpenedAgainWhileItIsAsked(t *testing.T) {
	var disks Disks
	mono := func() time.Duration { return 0 }
	s := disks.At(vfs.NewMem(), "/d", mono)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for range 1000 {
				if h, err := s.Hold(Grow, 1); err == nil {
					h.Cancel()
				}
				s.Free()
			}
		})
	}
	for range 1000 {
		if disks.At(vfs.NewMem(), "/d", mono) != s {
			t.Fatal("a folder that is opened again has another Space")
		}
	}
	all.Wait()
}
