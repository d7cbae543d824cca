package admin

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// callerOf asks the kernel who connected (SO_PEERCRED).
func callerOf(c net.Conn) (caller, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return caller{}, fmt.Errorf("ask who calls: a %T is no unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return caller{}, fmt.Errorf("ask who calls: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, inner); err != nil {
		return caller{}, fmt.Errorf("ask who calls: %w", err)
	}
	who := caller{known: true, uid: cred.Uid, name: fmt.Sprintf("uid %d", cred.Uid)}
	if found, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10)); err == nil {
		who.name = found.Username
	}
	return who, nil
}
