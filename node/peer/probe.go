package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"mailnode/storage/slot"
)

// Probe asks whoever listens at an address which node of which cluster it is. It
// says nothing of itself: a node without an identity may ask. The answer is only
// what the other side shows, its certificate signed by its own CA, so that it is
// good for a warning and for nothing else.
func Probe(ctx context.Context, address string, o Options) (cluster string, name slot.NodeName, err error) {
	c, err := o.withDefaults().secure(ctx, address, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{ProtoJoin},
		InsecureSkipVerify: true, // there is no CA to check against yet
		VerifyConnection: func(cs tls.ConnectionState) error {
			cluster, name, err = claimed(cs.PeerCertificates)
			return err
		},
	})
	if err != nil {
		return "", "", fmt.Errorf("probe %q: %w", address, err)
	}
	c.NetConn().Close() // without a goodbye, nothing was asked
	return cluster, name, nil
}

// claimed returns the node and the cluster of a chain that is right in itself.
func claimed(certs []*x509.Certificate) (cluster string, name slot.NodeName, err error) {
	if len(certs) != 2 || len(certs[0].URIs) != 1 {
		return "", "", fmt.Errorf("%w: no node of any cluster answers", ErrStranger)
	}
	if err := checkAuthority(certs[1]); err != nil {
		return "", "", err
	}
	cluster = certs[0].URIs[0].Host
	if !isHex(cluster, 16) {
		return "", "", fmt.Errorf("%w: %q is no cluster", ErrStranger, shorten(cluster, 40))
	}
	name, err = checkMember(certs[0], certs[1], cluster)
	return cluster, name, err
}
