// Package rpc is the gRPC service of nodes on the peer port, generated from
// rpc.proto, and the two things that both ends of it share: connections whose
// peer is proved by the handshake below, and storage errors on the wire.
package rpc

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Named is a connection that knows the node at its other end.
type Named interface {
	net.Conn
	Peer() slot.NodeName
}

// Credentials pass on connections that package node/peer has secured already:
// TLS, certificate and HELLO are done; the peer's name becomes the call's.
func Credentials() credentials.TransportCredentials { return passThrough{} }

type passThrough struct{}

type peerName struct {
	credentials.CommonAuthInfo
	name slot.NodeName
}

func (peerName) AuthType() string { return "mailnode-peer" }

func (passThrough) handshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	n, ok := c.(Named)
	if !ok {
		return nil, nil, errors.New("a connection that is no peer's")
	}
	return c, peerName{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, n.Peer()}, nil
}

func (p passThrough) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return p.handshake(c)
}

func (p passThrough) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return p.handshake(c)
}

func (passThrough) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "mailnode-peer"}
}
func (p passThrough) Clone() credentials.TransportCredentials { return p }
func (passThrough) OverrideServerName(string) error           { return nil }

// PeerName returns the proved name of a call's other end.
func PeerName(ctx context.Context) (slot.NodeName, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	n, ok := p.AuthInfo.(peerName)
	return n.name, ok
}

// Wrap puts an error on the wire; nil stays nil.
func Wrap(err error) *Failure {
	if err == nil {
		return nil
	}
	return &Failure{Kind: storage.KindName(err), Text: err.Error()}
}

// Err takes an error off the wire.
func (f *Failure) Err() error {
	if f.GetKind() == "" {
		return nil
	}
	return storage.Errorf(storage.NamedKind(f.Kind), "%s", f.Text)
}
