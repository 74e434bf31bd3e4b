import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.election.CampaignResponse;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.CloseableClient;
import io.etcd.jetcd.watch.WatchEvent;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.stub.StreamObserver;
import io.netty.handler.ssl.SslContextBuilder;
import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;

/** What a client written with jetcd does. The last line is "N passed, N failed". */
public final class Program {
    private static final String PREFIX = "/clients/java/";
    private static final String ENDPOINT = System.getenv("ENDPOINT");
    private static final String TLS_ENDPOINT = System.getenv("TLS_ENDPOINT");
    private static final String PKI = System.getenv("PKI");

    private interface Check {
        void run() throws Exception;
    }

    public static void main(String[] arguments) {
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("put-get-delete", Program::putGetDelete);
        checks.put("txn", Program::txn);
        checks.put("watch", Program::watch);
        checks.put("lease", Program::lease);
        checks.put("lock", Program::lock);
        checks.put("election", Program::election);
        checks.put("members", Program::members);
        checks.put("tls", Program::tls);
        int passed = 0;
        int failed = 0;
        for (Map.Entry<String, Check> check : checks.entrySet()) {
            try {
                check.getValue().run();
                passed++;
                System.out.println("ok " + check.getKey());
            } catch (Throwable error) {
                failed++;
                System.out.println("FAILED " + check.getKey() + ": " + error);
            }
        }
        System.out.println(passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private static Client connect() {
        return Client.builder().endpoints("http://" + ENDPOINT).build();
    }

    private static ByteSequence bytes(String text) {
        return ByteSequence.from(text, UTF_8);
    }

    private static String text(ByteSequence bytes) {
        return bytes.toString(UTF_8);
    }

    private static <T> T in(CompletableFuture<T> answer) throws Exception {
        return answer.get(15, TimeUnit.SECONDS);
    }

    private static void is(String what, Object found, Object wanted) {
        if (!String.valueOf(found).equals(String.valueOf(wanted))) {
            throw new AssertionError(what + ": " + found + ", not " + wanted);
        }
    }

    private static void until(String what, BooleanSupplier holds) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(15);
        while (!holds.getAsBoolean()) {
            if (System.nanoTime() > end) {
                throw new AssertionError(what);
            }
            Thread.sleep(100);
        }
    }

    private static String value(Client client, String key) throws Exception {
        GetResponse answer = in(client.getKVClient().get(bytes(key)));
        return answer.getKvs().isEmpty() ? null : text(answer.getKvs().get(0).getValue());
    }

    private static void put(Client client, String key, String value) throws Exception {
        in(client.getKVClient().put(bytes(key), bytes(value)));
    }

    private static void putGetDelete() throws Exception {
        try (Client client = connect()) {
            put(client, PREFIX + "a", "1");
            put(client, PREFIX + "b", "2");
            GetOption descending = GetOption.builder().isPrefix(true)
                    .withSortField(GetOption.SortTarget.KEY).withSortOrder(GetOption.SortOrder.DESCEND).build();
            List<String> keys = new ArrayList<>();
            for (KeyValue kv : in(client.getKVClient().get(bytes(PREFIX), descending)).getKvs()) {
                keys.add(text(kv.getKey()));
            }
            is("keys", keys, List.of(PREFIX + "b", PREFIX + "a"));
            DeleteOption all = DeleteOption.builder().isPrefix(true).withPrevKV(true).build();
            is("deleted", in(client.getKVClient().delete(bytes(PREFIX), all)).getPrevKvs().size(), 2);
        }
    }

    private static TxnResponse swap(Client client, String key, String old, String next) throws Exception {
        KV kv = client.getKVClient();
        return in(kv.txn().If(new Cmp(bytes(key), Cmp.Op.EQUAL, CmpTarget.value(bytes(old))))
                .Then(Op.put(bytes(key), bytes(next), PutOption.DEFAULT))
                .Else(Op.get(bytes(key), GetOption.DEFAULT)).commit());
    }

    private static void txn() throws Exception {
        try (Client client = connect()) {
            String key = PREFIX + "txn";
            put(client, key, "1");
            is("done", swap(client, key, "1", "2").isSucceeded(), true);
            TxnResponse refused = swap(client, key, "1", "3");
            is("done", refused.isSucceeded(), false);
            is("value", text(refused.getGetResponses().get(0).getKvs().get(0).getValue()), "2");
        }
    }

    private static void watch() throws Exception {
        try (Client client = connect()) {
            List<String> heard = Collections.synchronizedList(new ArrayList<>());
            String key = PREFIX + "watch/a";
            WatchOption prefix = WatchOption.builder().isPrefix(true).withPrevKV(true).build();
            Watch.Listener listener = Watch.listener(answer -> answer.getEvents().forEach(event -> heard.add(line(event))));
            // From before the first event on, as the client does not say when its watcher is there.
            long first = in(client.getKVClient().put(bytes(key), bytes("0"))).getHeader().getRevision();
            Watch.Watcher watcher = client.getWatchClient().watch(bytes(PREFIX + "watch/"), WatchOption.builder()
                    .isPrefix(true).withPrevKV(true).withRevision(first + 1).build(), listener);
            put(client, key, "1");
            long second = in(client.getKVClient().put(bytes(key), bytes("2"))).getHeader().getRevision();
            in(client.getKVClient().delete(bytes(key)));
            until("three events", () -> heard.size() >= 3);
            watcher.close();
            is("live", heard, List.of("PUT 1", "PUT 2", "DELETE "));
            List<String> again = Collections.synchronizedList(new ArrayList<>());
            Watch.Watcher later = client.getWatchClient().watch(bytes(key), WatchOption.builder().withRevision(second).build(),
                    Watch.listener(answer -> answer.getEvents().forEach(event -> again.add(line(event)))));
            until("two events", () -> again.size() >= 2);
            later.close();
            is("from a revision", again, List.of("PUT 2", "DELETE "));
        }
    }

    private static String line(WatchEvent event) {
        return event.getEventType() + " " + text(event.getKeyValue().getValue());
    }

    private static void lease() throws Exception {
        try (Client client = connect()) {
            String key = PREFIX + "leased";
            long id = in(client.getLeaseClient().grant(4)).getID();
            in(client.getKVClient().put(bytes(key), bytes("1"), PutOption.builder().withLeaseId(id).build()));
            AtomicInteger renewals = new AtomicInteger();
            CloseableClient alive = client.getLeaseClient().keepAlive(id, new StreamObserver<>() {
                @Override
                public void onNext(LeaseKeepAliveResponse answer) {
                    renewals.incrementAndGet();
                }

                @Override
                public void onError(Throwable error) {}

                @Override
                public void onCompleted() {}
            });
            Thread.sleep(6000);
            is("kept alive", value(client, key), "1");
            is("renewals came", renewals.get() >= 2, true);
            is("keys", in(client.getLeaseClient().timeToLive(id, LeaseOption.builder().withAttachedKeys().build())).getKeys().size(), 1);
            alive.close();
            until("the lease runs out", () -> {
                try {
                    return value(client, key) == null;
                } catch (Exception error) {
                    throw new AssertionError(error);
                }
            });
            long other = in(client.getLeaseClient().grant(600)).getID();
            in(client.getKVClient().put(bytes(key), bytes("2"), PutOption.builder().withLeaseId(other).build()));
            in(client.getLeaseClient().revoke(other));
            is("with its lease", value(client, key), null);
        }
    }

    /** The server's own service of locks. */
    private static void lock() throws Exception {
        try (Client one = connect(); Client other = connect()) {
            ByteSequence name = bytes(PREFIX + "lock");
            long first = in(one.getLeaseClient().grant(30)).getID();
            long second = in(other.getLeaseClient().grant(30)).getID();
            ByteSequence held = in(one.getLockClient().lock(name, first)).getKey();
            is("key", text(held).startsWith(PREFIX + "lock/"), true);
            CompletableFuture<ByteSequence> waiting = other.getLockClient().lock(name, second).thenApply(answer -> answer.getKey());
            try {
                waiting.get(500, TimeUnit.MILLISECONDS);
                throw new AssertionError("two have it");
            } catch (TimeoutException taken) {
                // as it must be
            }
            in(one.getLockClient().unlock(held));
            in(other.getLockClient().unlock(in(waiting)));
        }
    }

    /** The server's own service of elections. */
    private static void election() throws Exception {
        try (Client one = connect(); Client other = connect()) {
            ByteSequence name = bytes(PREFIX + "election");
            long first = in(one.getLeaseClient().grant(30)).getID();
            long second = in(other.getLeaseClient().grant(30)).getID();
            List<String> observed = Collections.synchronizedList(new ArrayList<>());
            CampaignResponse leads = in(one.getElectionClient().campaign(name, first, bytes("one")));
            other.getElectionClient().observe(name, new Election.Listener() {
                @Override
                public void onNext(LeaderResponse answer) {
                    observed.add(text(answer.getKv().getValue()));
                }

                @Override
                public void onError(Throwable error) {}

                @Override
                public void onCompleted() {}
            });
            until("the observer hears of the leader", () -> observed.contains("one"));
            CompletableFuture<CampaignResponse> waiting = other.getElectionClient().campaign(name, second, bytes("other"));
            is("leader", text(in(other.getElectionClient().leader(name)).getKv().getValue()), "one");
            in(one.getElectionClient().proclaim(leads.getLeader(), bytes("one again")));
            until("the observer hears of it", () -> observed.contains("one again"));
            is("there is one leader", waiting.isDone(), false);
            in(one.getElectionClient().resign(leads.getLeader()));
            CampaignResponse next = in(waiting);
            is("leader", text(in(one.getElectionClient().leader(name)).getKv().getValue()), "other");
            until("the observer hears of the next", () -> observed.contains("other"));
            in(other.getElectionClient().resign(next.getLeader()));
        }
    }

    private static void members() throws Exception {
        try (Client client = connect()) {
            is("members", in(client.getClusterClient().listMember()).getMembers().size(), 1);
            String version = in(client.getMaintenanceClient().statusMember("http://" + ENDPOINT)).getVersion();
            is("version", version.startsWith("3."), true);
        }
    }

    private static void tls() throws Exception {
        SslContextBuilder bare = GrpcSslContexts.forClient().trustManager(new File(PKI, "ca.crt"));
        SslContextBuilder whole = GrpcSslContexts.forClient().trustManager(new File(PKI, "ca.crt"))
                .keyManager(new File(PKI, "client.crt"), new File(PKI, "client.key"));
        try (Client client = Client.builder().endpoints("https://" + TLS_ENDPOINT).sslContext(whole.build()).build()) {
            put(client, PREFIX + "tls", "1");
            is("value", value(client, PREFIX + "tls"), "1");
        }
        try (Client client = Client.builder().endpoints("https://" + TLS_ENDPOINT).sslContext(bare.build())
                .retryMaxAttempts(1).build()) {
            client.getKVClient().get(bytes(PREFIX + "tls")).get(5, TimeUnit.SECONDS);
        } catch (ExecutionException | TimeoutException refused) {
            return;
        }
        throw new AssertionError("served without a certificate");
    }
}
