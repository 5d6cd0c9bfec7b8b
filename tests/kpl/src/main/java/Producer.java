import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;

import com.fasterxml.jackson.databind.ObjectMapper;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.kinesis.producer.KinesisProducer;
import software.amazon.kinesis.producer.KinesisProducerConfiguration;
import software.amazon.kinesis.producer.UserRecordFailedException;
import software.amazon.kinesis.producer.UserRecordResult;

/**
 * Puts lines of standard input, {@code key TAB data}, with the KPL, and prints for each, in their
 * order, a JSON line: {@code successful, shard, sequenceNumber, attempts, errors}.
 *
 * <p>Arguments: stream, port of the TLS endpoint on localhost, then any of the KPL's own settings
 * as {@code Name=value} (those of a {@code default_config.properties}).
 */
public final class Producer {

    private static final int MAX_OUTSTANDING = 5_000;

    private Producer() {}

    /** Runs until every record has its result. */
    public static void main(String[] arguments) throws IOException, InterruptedException {
        PrintStream results = System.out;
        System.setOut(System.err); // whatever a library prints is no result
        KinesisProducer producer = new KinesisProducer(configuration(arguments));
        try {
            put(producer, arguments[0], results);
        } finally {
            producer.destroy();
        }
    }

    private static KinesisProducerConfiguration configuration(String[] arguments) {
        Properties settings = new Properties();
        for (int index = 2; index < arguments.length; index++) {
            String[] setting = arguments[index].split("=", 2);
            settings.setProperty(setting[0], setting[1]);
        }
        return KinesisProducerConfiguration.fromProperties(settings)
                .setKinesisEndpoint("localhost")
                .setKinesisPort(Integer.parseInt(arguments[1]))
                .setVerifyCertificate(false)
                .setRegion("us-east-1")
                .setCredentialsProvider(
                        StaticCredentialsProvider.create(
                                AwsBasicCredentials.create("test", "test")))
                .setMetricsLevel("none");
    }

    private static void put(KinesisProducer producer, String stream, PrintStream results)
            throws IOException, InterruptedException {
        ConcurrentLinkedQueue<Future<UserRecordResult>> waiting = new ConcurrentLinkedQueue<>();
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        String line;
        while ((line = lines.readLine()) != null) {
            int tab = line.indexOf('\t');
            byte[] data = line.substring(tab + 1).getBytes(StandardCharsets.UTF_8);
            // The KPL's own buffer has no bound.
            if (waiting.size() >= MAX_OUTSTANDING) {
                print(waiting.remove(), results);
            }
            waiting.add(
                    producer.addUserRecord(
                            stream, line.substring(0, tab), ByteBuffer.wrap(data)));
        }
        producer.flush();
        while (!waiting.isEmpty()) {
            print(waiting.remove(), results);
        }
        results.flush();
    }

    private static void print(Future<UserRecordResult> future, PrintStream results)
            throws IOException, InterruptedException {
        UserRecordResult result;
        try {
            result = future.get();
        } catch (ExecutionException error) {
            if (!(error.getCause() instanceof UserRecordFailedException failed)) {
                throw new IOException(error.getCause());
            }
            result = failed.getResult();
        }
        results.println(
                new ObjectMapper()
                        .writeValueAsString(
                                Map.of(
                                        "successful", result.isSuccessful(),
                                        "shard", String.valueOf(result.getShardId()),
                                        "sequenceNumber",
                                        String.valueOf(result.getSequenceNumber()),
                                        "attempts", result.getAttempts().size(),
                                        "errors",
                                        result.getAttempts().stream()
                                                .filter(attempt -> !attempt.isSuccessful())
                                                .map(attempt -> attempt.getErrorCode())
                                                .toList())));
    }
}
