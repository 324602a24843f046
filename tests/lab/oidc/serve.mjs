// A provider of OpenID Connect for tests, on loopback, with keys of its own that are new each time.
//
//   node serve.mjs FOLDER [PORT]
//
// FOLDER is where oidc-install has put the library. Prints the issuer when it listens, and ends
// when its standard input does.
//
// Nobody types here: `login_hint=NAME:GROUP,GROUP` in the URL of a login logs in NAME, who is in
// these groups from then on, and agrees to everything; without a hint the login is refused. What
// a device shows is agreed to by GET /lab-device?user_code=CODE&hint=NAME:GROUP.
import { createServer } from 'node:http';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { generateKeyPairSync, randomUUID } from 'node:crypto';

const [folder, wanted = '0'] = process.argv.slice(2);
const library = resolve(folder, 'node_modules/oidc-provider/lib/index.js');
const { default: Provider } = await import(pathToFileURL(library));

const groups = new Map();
const known = (hint) => {
  const [name, all = ''] = hint.split(':');
  groups.set(name, all.split(',').filter((group) => group));
  return `id-${name}`;
};

const server = createServer();
await new Promise((done) => server.listen(Number(wanted), '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig' };
const device = 'urn:ietf:params:oauth:grant-type:device_code';
const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  cookies: { keys: [randomUUID()] },
  clients: ['sluice', 'other'].map((client_id) => ({
    client_id,
    client_secret: 'a secret of the lab & more',
    application_type: 'native',
    grant_types: ['authorization_code', device],
    response_types: ['code'],
    redirect_uris: ['http://127.0.0.1/callback'],
  })),
  claims: { openid: ['sub'], profile: ['preferred_username', 'groups'] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false }, deviceFlow: { enabled: true } },
  interactions: { url: (_, interaction) => `/lab/${interaction.uid}` },
  findAccount: (_, accountId) => {
    const name = accountId.replace(/^id-/, '');
    const claims = { sub: accountId, preferred_username: name, groups: groups.get(name) };
    return { accountId, claims: async () => claims };
  },
});

async function agreed(accountId, clientId, scope) {
  const grant = new provider.Grant({ accountId, clientId });
  grant.addOIDCScope(scope);
  return grant.save();
}

provider.use(async (ctx, next) => {
  if (ctx.path.startsWith('/lab/')) {
    const { params } = await provider.interactionDetails(ctx.req, ctx.res);
    let result = { error: 'access_denied', error_description: 'nobody is there' };
    if (params.login_hint) {
      const accountId = known(params.login_hint);
      const grantId = await agreed(accountId, params.client_id, params.scope);
      result = { login: { accountId }, consent: { grantId } };
    }
    const options = { mergeWithLastSubmission: false };
    await provider.interactionFinished(ctx.req, ctx.res, result, options);
    ctx.respond = false;
    return;
  }
  if (ctx.path === '/lab-device') {
    const typed = ctx.query.user_code.replace(/[^A-Z]/g, '');
    const code = await provider.DeviceCode.findByUserCode(typed);
    code.accountId = known(ctx.query.hint);
    code.scope = code.params.scope;
    code.authTime = Math.floor(Date.now() / 1000);
    code.grantId = await agreed(code.accountId, code.clientId, code.scope);
    await code.save();
    ctx.body = 'agreed\n';
    return;
  }
  await next();
});

server.on('request', provider.callback());
process.stdin.resume().on('end', () => process.exit(0));
console.log(issuer);
