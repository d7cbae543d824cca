//go:build !linux

package admin

import (
	"net"
	"os"
)

// callerOf cannot ask the kernel here: the socket's mode is what protects it.
func callerOf(net.Conn) (caller, error) {
	return caller{known: true, uid: uint32(os.Geteuid()), name: "operator"}, nil
}
