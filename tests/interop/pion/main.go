// A client of a TURN relay, made of the stack that Go's WebRTC programs have.
//
// It allocates, talks to a peer that answers everything from two ports, and prints what it saw as JSON.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/pion/turn/v5"
)

const (
	// The peer has answered by then, or is asked again.
	patience = 2 * time.Second
	attempts = 5
	// Messages that are sent at least, and at most if no channel is there yet.
	rounds     = 40
	mostRounds = 2000
	// Bytes that the longest one carries.
	longest = 1200
)

// What the client saw. How data travelled is counted by message.
type report struct {
	Relayed        string `json:"relayed"`
	Mapped         string `json:"mapped"`
	Rounds         int    `json:"rounds"`
	ChannelOut     int64  `json:"channel_out"`
	ChannelIn      int64  `json:"channel_in"`
	IndicationsOut int64  `json:"indications_out"`
	IndicationsIn  int64  `json:"indications_in"`
}

func main() {
	server := flag.String("server", "", "address and port of the relay")
	transport := flag.String("transport", "udp", "udp, tcp or tls")
	authority := flag.String("authority", "", "file with the certificate to trust")
	name := flag.String("name", "", "name in the relay's certificate")
	user := flag.String("user", "", "username")
	password := flag.String("password", "", "password")
	family := flag.Int("family", 4, "4 or 6: of the relayed address")
	peer := flag.String("peer", "", "address and port of the peer")
	other := flag.String("other", "", "where the peer's second answers come from")
	flag.Parse()

	seen, err := run(*server, *transport, *authority, *name, *user, *password, *family, *peer, *other)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		os.Exit(1)
	}
}

func run(server, transport, authority, name, user, password string, family int, peer, other string) (*report, error) {
	conn, err := dial(server, transport, authority, name)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the relay: %w", err)
	}
	defer conn.Close()
	counted := &counter{PacketConn: conn}

	requested := turn.RequestedAddressFamilyIPv4
	if family == 6 {
		requested = turn.RequestedAddressFamilyIPv6
	}
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr:         server,
		TURNServerAddr:         server,
		Conn:                   counted,
		Username:               user,
		Password:               password,
		RequestedAddressFamily: requested,
	})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		return nil, err
	}

	mapped, err := client.SendBindingRequest()
	if err != nil {
		return nil, fmt.Errorf("binding: %w", err)
	}
	relayed, err := client.Allocate()
	if err != nil {
		return nil, fmt.Errorf("allocate: %w", err)
	}
	seen := &report{Relayed: relayed.LocalAddr().String(), Mapped: mapped.String()}
	if err := talk(relayed, counted, peer, other, seen); err != nil {
		return nil, err
	}
	seen.ChannelOut, seen.ChannelIn = counted.channelOut.Load(), counted.channelIn.Load()
	seen.IndicationsOut, seen.IndicationsIn = counted.indicationsOut.Load(), counted.indicationsIn.Load()
	// The allocation is given back.
	return seen, relayed.Close()
}

func dial(server, transport, authority, name string) (net.PacketConn, error) {
	switch transport {
	case "udp":
		return net.ListenPacket("udp", ":0")
	case "tcp":
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	case "tls":
		pem, err := os.ReadFile(authority)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate to trust")
		}
		conn, err := tls.Dial("tcp", server, &tls.Config{RootCAs: roots, ServerName: name})
		if err != nil {
			return nil, err
		}
		return turn.NewSTUNConn(conn), nil
	}
	return nil, fmt.Errorf("there is no transport %q", transport)
}

// Sends messages of all lengths one by one until both answers to each are there, and channels were used both ways.
func talk(relayed net.PacketConn, counted *counter, peer, other string, seen *report) error {
	to, err := net.ResolveUDPAddr("udp", peer)
	if err != nil {
		return err
	}
	for seen.Rounds < rounds || counted.channelIn.Load() == 0 || counted.channelOut.Load() == 0 {
		if seen.Rounds == mostRounds {
			return errors.New("no channel is ever used")
		}
		message := make([]byte, 8+seen.Rounds*31%longest)
		copy(message, fmt.Sprintf("%08d", seen.Rounds))
		for i := 8; i < len(message); i++ {
			message[i] = byte(i * (seen.Rounds + 1))
		}
		if err := exchange(relayed, to, message, peer, other); err != nil {
			return fmt.Errorf("message %d: %w", seen.Rounds, err)
		}
		seen.Rounds++
	}
	return nil
}

// Sends a message until it has come back from both ports of the peer.
func exchange(relayed net.PacketConn, to net.Addr, message []byte, peer, other string) error {
	missing := map[string]bool{peer: true, other: true}
	buffer := make([]byte, 1<<16)
	for range attempts {
		if _, err := relayed.WriteTo(message, to); err != nil {
			return err
		}
		if err := relayed.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		for len(missing) > 0 {
			length, from, err := relayed.ReadFrom(buffer)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if err != nil {
				return err
			}
			// An answer to an earlier message that was sent twice is of no interest.
			if length >= 8 && !bytes.Equal(buffer[:8], message[:8]) {
				continue
			}
			if !bytes.Equal(buffer[:length], message) {
				return fmt.Errorf("%d bytes from %v are not what was sent", length, from)
			}
			delete(missing, from.String())
		}
		if len(missing) == 0 {
			return nil
		}
	}
	return fmt.Errorf("no answer from %v", missing)
}

// Counts messages with data by kind (RFC 8656 §12.4, §18).
type counter struct {
	net.PacketConn
	channelOut, channelIn, indicationsOut, indicationsIn atomic.Int64
}

func (c *counter) WriteTo(message []byte, to net.Addr) (int, error) {
	count(message, 0x16, &c.channelOut, &c.indicationsOut)
	return c.PacketConn.WriteTo(message, to)
}

func (c *counter) ReadFrom(buffer []byte) (int, net.Addr, error) {
	length, from, err := c.PacketConn.ReadFrom(buffer)
	if err == nil {
		count(buffer[:length], 0x17, &c.channelIn, &c.indicationsIn)
	}
	return length, from, err
}

func count(message []byte, indication byte, channel, indications *atomic.Int64) {
	switch {
	case len(message) >= 4 && message[0]&0xc0 == 0x40:
		channel.Add(1)
	case len(message) >= 20 && message[0] == 0 && message[1] == indication:
		indications.Add(1)
	}
}
