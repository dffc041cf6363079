import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** Asks a gateway as Java programs do: the default client offers HTTP/2 on each new connection (`Upgrade: h2c`). */
public class Client {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        String body = "{\"query\": \"{ __typename }\"}";
        HttpRequest.Builder json = HttpRequest.newBuilder(uri).header("Content-Type", "application/json");
        HttpRequest post = json.copy().POST(BodyPublishers.ofString(body)).build();
        HttpRequest get = HttpRequest.newBuilder(URI.create(uri + "?query=%7B__typename%7D"))
            .header("GraphQL-Require-Preflight", "1").build();

        HttpClient client = HttpClient.newHttpClient();
        show("POST", client, post);
        show("POST", client, post);
        show("GET", HttpClient.newHttpClient(), get);
        show("HTTP_1_1", HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build(), post);
        show("large", client, json.copy().POST(BodyPublishers.ofByteArray(new byte[2_000_000])).build());
    }

    private static void show(String name, HttpClient client, HttpRequest request) throws Exception {
        var answer = client.send(request, BodyHandlers.ofString());
        System.out.println(name + " " + answer.statusCode() + " " + answer.body());
    }
}
