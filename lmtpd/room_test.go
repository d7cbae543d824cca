package lmtpd

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage"
	"mailnode/storage/disk"
)

// fullFS is a file system in memory that says how much is free.
type fullFS struct {
	vfs.FS
	free uint64
}

func (f fullFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free}, nil
}

// leaves puts the spool on a disk that has so many bytes above the reserve.
func leaves(bytes uint64) func(*Config) {
	return func(c *Config) {
		c.MessageBytesMax = 8 << 20
		fs := fullFS{vfs.NewMem(), disk.ReserveBytes + bytes}
		c.Spool = &storage.SpoolDir{FS: fs, Dir: "/", LargeBytesMax: -1, Space: (&disk.Disks{}).At(fs, "/", storage.SystemClock().Mono)}
	}
}

// A message whose SIZE the disk has no room for is put off at MAIL, before it is
// sent; one that is too large for anybody is refused (RFC 1870, section 6.1).
func TestSizeIsReservedAtMail(t *testing.T) {
	h := serve(t, leaves(3<<20))
	c := h.greeted(t)
	c.send("MAIL FROM:<a@example.net> SIZE=4000000")
	c.want("452 4.3.1")
	c.send("MAIL FROM:<a@example.net> SIZE=9000000")
	c.want("552 5.3.4")
	c.send("MAIL FROM:<a@example.net> SIZE=3000000", "NOOP")
	c.want("250", "250")
	other := h.greeted(t)
	other.send("MAIL FROM:<a@example.net> SIZE=3000000")
	other.want("452 4.3.1") // beside what the first has announced
	other.send("MAIL FROM:<a@example.net> SIZE=1000", "RSET")
	other.want("250", "250")
	c.send("RSET")
	c.want("250")
	other.send("MAIL FROM:<a@example.net> SIZE=3000000", "QUIT")
	other.want("250", "221")
	other.wantEnd()
	c.send("MAIL FROM:<a@example.net> SIZE=3000000")
	for tries := 0; !strings.HasPrefix(c.reply(), "250") && tries < 1000; tries++ { // until the server has noticed
		<-time.After(time.Millisecond)
		c.send("MAIL FROM:<a@example.net> SIZE=3000000")
	}
	c.send("RCPT TO:<u1@example.org>", "DATA", "Subject: x", "", ".")
	c.want("250", "354", "250 2.1.5")
}

// Without SIZE a message takes room as it grows; the rest of one that finds none is
// read and dropped, and the connection goes on.
func TestMessageOfUnknownSizeFindsNoRoom(t *testing.T) {
	h := serve(t, leaves(1<<19))
	c := h.greeted(t)
	text := strings.Repeat(strings.Repeat("z", 76)+"\r\n", 40_000)
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: x", "", text+".", "NOOP")
	c.want("250", "250", "354", "452 4.3.1 <u1@example.org>", "250 2.0.0")
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: x", "", ".")
	c.want("250", "250", "354", "250 2.1.5")
}

// Whoever sends a message too slowly is cut off, although bytes come all the time;
// so is whoever sends nothing for as long.
func TestSlowMessageIsCutOff(t *testing.T) {
	for _, every := range []time.Duration{5 * time.Millisecond, time.Hour} {
		h := serve(t, func(c *Config) { c.Timeouts.Pace = 100 * time.Millisecond })
		c := h.greeted(t)
		c.send("MAIL FROM:<a@example.net>", "RCPT TO:<u1@example.org>", "DATA", "Subject: never ends")
		stop := make(chan struct{})
		go func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					c.Write([]byte("x"))
				case <-stop:
					return
				}
			}
		}()
		c.want("250", "250", "354", "451 4.3.0 <u1@example.org>", "421 4.4.2")
		close(stop)
		if got := h.bag.all(); len(got) > 0 {
			t.Errorf("stored %+v, want nothing", got)
		}
	}
}

// What does not fit into a recipient's quota is put off at RCPT, before it is sent: by
// the size that MAIL has announced, or when nothing fits any more. Others get the message.
func TestQuotaIsKnownAtRcpt(t *testing.T) {
	h := serve(t, nil)
	c := h.greeted(t)
	c.send("MAIL FROM:<a@example.net> SIZE=2000", "RCPT TO:<narrow@example.org>", "RCPT TO:<narrow+box@example.org>", "RCPT TO:<fullyet@example.org>",
		"RCPT TO:<u1@example.org>", "DATA", "Subject: x", "", ".")
	c.want("250", "452 4.2.2", "452 4.2.2", "452 4.2.2", "250", "354", "250 2.1.5 <u1@example.org>")
	c.send("MAIL FROM:<a@example.net>", "RCPT TO:<narrow@example.org>", "RCPT TO:<fullyet@example.org>", "DATA", "Subject: x", "", ".")
	c.want("250", "250", "452 4.2.2", "354", "250 2.1.5 <narrow@example.org>")
}
