package imapd

import "golang.org/x/sys/unix"

func hearSocket(fd int) heard {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	switch {
	case err != nil || n == 0:
		return connected
	case p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
		return gone
	}
	return halfClosed
}
