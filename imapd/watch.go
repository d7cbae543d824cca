package imapd

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// While a command runs nobody reads from its client. watch finds out from the
// kernel whether the client is still there; it reads nothing itself.

const (
	watchAfter = 100 * time.Millisecond // shorter commands are not watched
	watchEvery = 500 * time.Millisecond
)

// stillHere is sent to a client that has shut its direction of the connection
// down. One that waits for its answers passes it over (RFC 3501, section 7.1.1);
// the kernel of one that has gone answers with a reset.
const stillHere = "* OK still at work\r\n"

// errGone says that the client is gone.
var errGone = errors.New("serve client: it has closed its connection")

// heard is what the kernel has heard of the other side of a connection.
type heard int

const (
	connected  heard = iota
	halfClosed       // it sends nothing more, and may still listen
	gone
)

// watch ends session.ctx when the client of a long command has gone.
type watch struct {
	c     *session
	mu    sync.Mutex // guards what follows
	timer *time.Timer
	over  bool
}

// watchClient watches until end is called. It costs one timer, and a goroutine
// only while it looks.
func (c *session) watchClient() *watch {
	w := &watch{c: c}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(watchAfter, w.look)
	return w
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	switch hear(w.c.conn) {
	case gone:
		w.c.cancel(errGone)
		return
	case halfClosed:
		w.c.w.Interject(stillHere)
	}
	w.timer.Reset(watchEvery)
}

// end stops watching. When it returns nothing more is sent.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// hear asks the kernel about the socket under nc. What has none is connected.
func hear(nc net.Conn) heard {
	for {
		switch over := nc.(type) {
		case syscall.Conn:
			raw, err := over.SyscallConn()
			if err != nil {
				return gone
			}
			said := gone // closed by ourselves
			raw.Control(func(fd uintptr) { said = hearSocket(int(fd)) })
			return said
		case interface{ NetConn() net.Conn }:
			nc = over.NetConn()
		default:
			return connected
		}
	}
}
